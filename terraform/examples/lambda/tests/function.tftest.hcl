# What the function is given. AWS is mocked, so that all of it can be applied.

mock_provider "aws" {
  mock_resource "aws_dynamodb_table" {
    defaults = { arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/visits" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/visits" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/visits" }
  }

  mock_resource "aws_apigatewayv2_api" {
    defaults = { execution_arn = "arn:aws:execute-api:eu-west-1:123456789012:visits" }
  }

  mock_resource "aws_lambda_function" {
    defaults = { invoke_arn = "arn:aws:lambda:eu-west-1:123456789012:function:visits" }
  }
}

variables {
  package = "main.tf" # any file
}

run "function" {
  command = apply

  assert {
    condition = aws_lambda_function.this.environment[0].variables == tomap({
      USE_DYNAMODB_SESSIONS        = "true"
      SESSION_TABLE_NAME           = "visits"
      SESSION_SECRET_KEY_PARAMETER = "/visits/session-secret-key"
    })
    error_message = "The function knows its table and where its key is, and not the key."
  }

  assert {
    condition     = aws_lambda_function.this.handler == "app.handler" && aws_apigatewayv2_integration.this.payload_format_version == "2.0"
    error_message = "The handler is the example's, behind an HTTP API of format 2.0."
  }

  assert {
    condition     = aws_iam_role_policy.sessions.policy == module.sessions.policy_json
    error_message = "On the table the role may do what the module says, and nothing else."
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.function.policy).Statement :
      !anytrue([for resource in statement.Resource : resource == "*"])
    ])
    error_message = "No permission is for everything."
  }
}

run "a_parameter_is_named_in_full" {
  command = plan

  variables {
    secret_key_parameter = "key"
  }

  expect_failures = [var.secret_key_parameter]
}
