# The other kind of table. Nothing is called, nothing is made.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }

  mock_data "aws_partition" {
    defaults = { dns_suffix = "amazonaws.com" }
  }

  mock_resource "aws_dynamodb_table" {
    defaults = {
      arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/conversations"
    }
  }
}

variables {
  name          = "conversations"
  conversations = true
}

run "table" {
  assert {
    condition     = aws_dynamodb_table.this.hash_key == "session_id" && aws_dynamodb_table.this.range_key == "position"
    error_message = "A conversation is a partition, and a message's place in it the sort key."
  }

  assert {
    condition = { for attribute in aws_dynamodb_table.this.attribute : attribute.name => attribute.type } == {
      session_id = "S", position = "N", owner = "S", created_at = "N"
    }
    error_message = "Only the attributes of keys are declared, with the types the package writes."
  }

  assert {
    condition     = aws_dynamodb_table.this.ttl[0].attribute_name == "ttl" && aws_dynamodb_table.this.ttl[0].enabled
    error_message = "Messages expire as sessions do."
  }

  assert {
    condition     = length(output.environment) == 0
    error_message = "No variable names the table of conversations."
  }
}

run "policies" {
  assert {
    condition = [for statement in jsondecode(output.policy_json).Statement : statement.Action] == [
      [
        "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem",
        "dynamodb:Query", "dynamodb:BatchWriteItem",
      ],
      ["dynamodb:Query"],
    ]
    error_message = "An agent works on items, reads a conversation and clears it: no scan, no describe, no wildcard."
  }

  assert {
    condition     = alltrue([for action in ["Scan", "BatchGetItem", "DescribeTable", "DescribeTimeToLive", "DescribeContinuousBackups"] : strcontains(output.operator_policy_json, action)])
    error_message = "An operator may scan and describe."
  }
}

run "without_index" {
  variables {
    owner_index = false
  }

  assert {
    condition     = { for attribute in aws_dynamodb_table.this.attribute : attribute.name => attribute.type } == { session_id = "S", position = "N" }
    error_message = "What no key uses is not declared."
  }
}
