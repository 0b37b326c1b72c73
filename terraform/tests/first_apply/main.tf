# The module with what it is told of, of which nothing is there yet: topics, and its own table in its policy.

terraform {
  required_version = ">= 1.4" # terraform_data

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100"
    }
  }
}

resource "terraform_data" "topics" {
  input = ["arn:aws:sns:eu-west-1:123456789012:on-call"]
}

module "sessions" {
  source = "../.."

  alarms = { enabled = true, sns_topic_arns = terraform_data.topics.output, throttles = null }

  resource_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { AWS = "arn:aws:iam::210987654321:role/shop" }
      Action    = ["dynamodb:GetItem"]
      Resource  = [module.sessions.table_arn, module.sessions.owner_index_arn]
    }]
  })
}
