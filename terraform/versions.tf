terraform {
  required_version = ">= 1.3" # startswith(), and preconditions

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100" # recovery_period_in_days; the oldest that is tested
    }
  }
}
