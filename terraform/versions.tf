terraform {
  required_version = ">= 1.3" # optional() with defaults

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}
