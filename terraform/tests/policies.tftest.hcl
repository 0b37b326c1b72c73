# Who may do what. The provider is a stand-in that makes up the ARNs AWS would: nothing is called, nothing is made.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }

  mock_data "aws_partition" {
    defaults = { dns_suffix = "amazonaws.com" }
  }

  mock_resource "aws_dynamodb_table" {
    defaults = {
      arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/sessions"
    }
  }
}

run "application" {
  assert {
    condition = jsondecode(output.policy_json) == {
      Version = "2012-10-17"
      Statement = [
        {
          Sid      = "Sessions"
          Effect   = "Allow"
          Action   = ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"]
          Resource = ["arn:aws:dynamodb:eu-west-1:123456789012:table/sessions"]
        },
        {
          Sid      = "OwnerIndex"
          Effect   = "Allow"
          Action   = ["dynamodb:Query"]
          Resource = ["arn:aws:dynamodb:eu-west-1:123456789012:table/sessions/index/owner-index"]
        },
      ]
    }
    error_message = "The application works on single items and queries the index: no scan, no describe, no wildcard."
  }

  assert {
    condition     = output.table_arn == "arn:aws:dynamodb:eu-west-1:123456789012:table/sessions"
    error_message = "table_arn is the table's."
  }

  assert {
    condition     = output.owner_index_arn == "arn:aws:dynamodb:eu-west-1:123456789012:table/sessions/index/owner-index"
    error_message = "owner_index_arn is the index's."
  }
}

run "application_with_tenants" {
  variables {
    tenant_index = true
  }

  assert {
    condition = [for statement in jsondecode(output.policy_json).Statement : statement if statement.Sid == "TenantIndex"] == [{
      Sid      = "TenantIndex"
      Effect   = "Allow"
      Action   = ["dynamodb:Query"]
      Resource = ["arn:aws:dynamodb:eu-west-1:123456789012:table/sessions/index/tenant-index"]
    }]
    error_message = "The application queries the index of tenants, too."
  }

  assert {
    condition     = output.tenant_index_arn == "arn:aws:dynamodb:eu-west-1:123456789012:table/sessions/index/tenant-index"
    error_message = "tenant_index_arn is the index's."
  }
}

run "application_without_index" {
  variables {
    owner_index = false
  }

  assert {
    condition     = output.owner_index_arn == null
    error_message = "There is no ARN of an index that does not exist."
  }

  assert {
    condition     = !strcontains(output.policy_json, "Query") && !strcontains(output.policy_json, "/index/")
    error_message = "The application may query nothing when there is no index."
  }

  assert {
    condition     = !strcontains(output.operator_policy_json, "/index/")
    error_message = "No policy names an index that does not exist."
  }
}

run "operator" {
  assert {
    condition = jsondecode(output.operator_policy_json) == {
      Version = "2012-10-17"
      Statement = [
        {
          Sid    = "Sessions"
          Effect = "Allow"
          Action = [
            "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem",
            "dynamodb:Scan", "dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive", "dynamodb:DescribeContinuousBackups",
          ]
          Resource = ["arn:aws:dynamodb:eu-west-1:123456789012:table/sessions"]
        },
        {
          Sid      = "OwnerIndex"
          Effect   = "Allow"
          Action   = ["dynamodb:Query"]
          Resource = ["arn:aws:dynamodb:eu-west-1:123456789012:table/sessions/index/owner-index"]
        },
      ]
    }
    error_message = "An operator may also read the whole table and look at its settings, and change none of them."
  }
}

run "key" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one"
  }

  assert {
    condition = alltrue([
      for policy in [output.policy_json, output.operator_policy_json] :
      [for statement in jsondecode(policy).Statement : statement if statement.Sid == "TableKey"] == [{
        Sid       = "TableKey"
        Effect    = "Allow"
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = ["arn:aws:kms:eu-west-1:123456789012:key/one"]
        Condition = { StringLike = { "kms:ViaService" = "dynamodb.*.amazonaws.com" } }
      }]
    ])
    error_message = "Both policies cover the key, only that key, and only through DynamoDB."
  }
}

run "key_in_china" {
  variables {
    kms_key_arn = "arn:aws-cn:kms:cn-north-1:123456789012:key/one"
  }

  override_data {
    target = data.aws_region.current
    values = { id = "cn-north-1" }
  }

  override_data {
    target = data.aws_partition.current
    values = { dns_suffix = "amazonaws.com.cn" }
  }

  assert {
    condition = [
      for statement in jsondecode(output.policy_json).Statement : statement.Condition if statement.Sid == "TableKey"
    ] == [{ StringLike = { "kms:ViaService" = "dynamodb.*.amazonaws.com.cn" } }]
    error_message = "In China, services call KMS by another domain."
  }
}

run "of_the_table_itself" {
  variables {
    resource_policy = "{\"Version\": \"2012-10-17\", \"Statement\": []}"
  }

  assert {
    condition     = aws_dynamodb_resource_policy.this[0].resource_arn == output.table_arn && aws_dynamodb_resource_policy.this[0].policy == var.resource_policy
    error_message = "The table has the policy that it is given."
  }
}

run "replicas" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one"
    replicas    = [{ region_name = "us-east-1", kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/two" }]
  }

  assert {
    condition = alltrue([
      for policy in [output.policy_json, output.operator_policy_json] :
      { for statement in jsondecode(policy).Statement : statement.Sid => statement.Resource } == {
        Sessions = [
          "arn:aws:dynamodb:eu-west-1:123456789012:table/sessions",
          "arn:aws:dynamodb:us-east-1:123456789012:table/sessions",
        ]
        OwnerIndex = [
          "arn:aws:dynamodb:eu-west-1:123456789012:table/sessions/index/owner-index",
          "arn:aws:dynamodb:us-east-1:123456789012:table/sessions/index/owner-index",
        ]
        TableKey = [
          "arn:aws:kms:eu-west-1:123456789012:key/one",
          "arn:aws:kms:us-east-1:123456789012:key/two",
        ]
      }
    ])
    error_message = "Both policies hold in every Region the table is in."
  }
}
