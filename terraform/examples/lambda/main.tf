# The visits of examples/lambda_app, in production: the table, a function that may use it and nothing else, and an HTTP API.
#
#   python3 examples/lambda_app/package.py function.zip --platform manylinux2014_aarch64 --python-version 3.13
#   aws ssm put-parameter --type SecureString --name /visits/session-secret-key \
#     --value "$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')"
#   cd terraform/examples/lambda && terraform init && terraform apply -var package=../../../function.zip

terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "name" {
  description = "Name of everything here."
  type        = string
  default     = "visits"
}

variable "package" {
  description = "Path of the function's zip, as examples/lambda_app/package.py makes it."
  type        = string
}

variable "secret_key_parameter" {
  description = "Name of the SecureString in Parameter Store that signs the cookies. Its value never passes through Terraform, so it is in no state."
  type        = string
  default     = "/visits/session-secret-key"

  validation {
    condition     = startswith(var.secret_key_parameter, "/")
    error_message = "secret_key_parameter must be a parameter's full name, which begins with a slash."
  }
}

variable "deletion_protection" {
  description = "Whether DynamoDB refuses to delete the table."
  type        = bool
  default     = true
}

locals {
  # arn : partition : service : region : account : …
  table_arn     = split(":", module.sessions.table_arn)
  parameter_arn = "arn:${local.table_arn[1]}:ssm:${local.table_arn[3]}:${local.table_arn[4]}:parameter${var.secret_key_parameter}"
}

module "sessions" {
  source = "../.."

  name                = var.name
  deletion_protection = var.deletion_protection
}

resource "aws_iam_role" "this" {
  name = var.name

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "sessions" {
  name   = "sessions"
  role   = aws_iam_role.this.id
  policy = module.sessions.policy_json
}

resource "aws_iam_role_policy" "function" {
  name = "function"
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["ssm:GetParameter"], Resource = [local.parameter_arn] },
      { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.this.arn}:*"] },
    ]
  })
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:The log holds no session, id or cookie: CloudWatch's own encryption is enough.
  #checkov:skip=CKV_AWS_338:30 days are for finding faults. Who has to keep logs longer sets retention_in_days.

  name              = "/aws/lambda/${var.name}"
  retention_in_days = 30
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:X-Ray is paid for by the trace, and needs its SDK to tell more than the log does.
  #checkov:skip=CKV_AWS_115:The account's limit holds: a limit of this function's own turns visitors away.
  #checkov:skip=CKV_AWS_116:It is called synchronously, so nothing would ever be in a dead-letter queue.
  #checkov:skip=CKV_AWS_117:DynamoDB and Parameter Store are reached by TLS and IAM: a VPC adds nothing but cost.
  #checkov:skip=CKV_AWS_173:The variables hold names, no secret: the key itself is in Parameter Store.
  #checkov:skip=CKV_AWS_272:Whoever may deploy this stack may also change its signing profile: sign where others deploy.

  function_name    = var.name
  role             = aws_iam_role.this.arn
  runtime          = "python3.13"
  architectures    = ["arm64"]
  handler          = "app.handler"
  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  memory_size      = 512
  timeout          = 15

  environment {
    variables = merge(module.sessions.environment, { SESSION_SECRET_KEY_PARAMETER = var.secret_key_parameter })
  }

  depends_on = [aws_iam_role_policy.sessions, aws_iam_role_policy.function, aws_cloudwatch_log_group.this]
}

resource "aws_apigatewayv2_api" "this" {
  name          = var.name
  protocol_type = "HTTP"
}

resource "aws_apigatewayv2_integration" "this" {
  api_id                 = aws_apigatewayv2_api.this.id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_function.this.invoke_arn
  payload_format_version = "2.0"
}

resource "aws_apigatewayv2_route" "this" {
  #checkov:skip=CKV_AWS_309:The pages are for visitors without an AWS identity: the session is what tells them apart.

  api_id    = aws_apigatewayv2_api.this.id
  route_key = "$default"
  target    = "integrations/${aws_apigatewayv2_integration.this.id}"
}

resource "aws_apigatewayv2_stage" "this" {
  #checkov:skip=CKV_AWS_76:The function sees every request, and has a log: access logs are for who wants them too.

  api_id      = aws_apigatewayv2_api.this.id
  name        = "$default"
  auto_deploy = true
}

resource "aws_lambda_permission" "this" {
  statement_id  = "api"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.this.execution_arn}/*"
}

output "url" {
  description = "Where it answers."
  value       = aws_apigatewayv2_stage.this.invoke_url
}
