output "table_name" {
  description = "Name of the table."
  value       = aws_dynamodb_table.this.name
}

output "table_arn" {
  description = "ARN of the table."
  value       = aws_dynamodb_table.this.arn
}

output "stream_arn" {
  description = "ARN of the table's stream, or null without one."
  value       = local.replicated || var.stream != null ? aws_dynamodb_table.this.stream_arn : null
}

output "owner_index_arn" {
  description = "ARN of the owner index, or null without one."
  value       = var.owner_index ? "${aws_dynamodb_table.this.arn}/index/owner-index" : null
}

output "tenant_index_arn" {
  description = "ARN of the tenant index, or null without one."
  value       = var.tenant_index ? "${aws_dynamodb_table.this.arn}/index/tenant-index" : null
}

output "policy_json" {
  description = "IAM policy document for the application: what the session store calls, and nothing else."
  value       = jsonencode(local.policy)
}

output "operator_policy_json" {
  description = "IAM policy document for people and jobs that administer sessions: adds scanning and describing."
  value       = jsonencode(local.operator_policy)
}

output "environment" {
  description = "Environment variables that point the application at the table. None for conversations: their table is named in code."
  value = { for name, value in {
    USE_DYNAMODB_SESSIONS = "true"
    SESSION_TABLE_NAME    = aws_dynamodb_table.this.name
  } : name => value if !var.conversations }
}
