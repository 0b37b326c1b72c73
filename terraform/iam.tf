# Policy documents to attach to roles of the caller's own. The module makes no role and no policy.

locals {
  # A replica's ARN is the table's with another Region in it.
  table_arns = concat([aws_dynamodb_table.this.arn], [
    for replica in local.replicas : join(":", [
      for position, part in split(":", aws_dynamodb_table.this.arn) : position == 3 ? replica.region_name : part
    ])
  ])
  index_arns  = [for arn in local.table_arns : "${arn}/index/owner-index"]
  tenant_arns = [for arn in local.table_arns : "${arn}/index/tenant-index"]
  key_arns    = compact(concat([var.kms_key_arn], [for replica in local.replicas : replica.kms_key_arn]))

  # TransactWriteItems has no permission of its own: it needs those of the puts and deletes in it.
  item_actions = concat(
    ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"],
    var.conversations ? ["dynamodb:Query", "dynamodb:BatchWriteItem"] : [],
  )
  table_sid = var.conversations ? "Conversations" : "Sessions"

  operator_actions = ["dynamodb:Scan", "dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive", "dynamodb:DescribeContinuousBackups"]

  index_statements = concat(
    var.owner_index ? [
      { Sid = "OwnerIndex", Effect = "Allow", Action = ["dynamodb:Query"], Resource = local.index_arns },
    ] : [],
    var.tenant_index ? [
      { Sid = "TenantIndex", Effect = "Allow", Action = ["dynamodb:Query"], Resource = local.tenant_arns },
    ] : [],
  )

  # DynamoDB calls KMS in the name of whoever calls DynamoDB; `kms:ViaService` lets the key be used in no other way.
  # Its domain is the partition's: in China amazonaws.com.cn. The Region is a wildcard because replication crosses Regions. CreateGrant is left out of what AWS lists: it is
  # needed by whoever creates the table. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html
  key_statements = var.kms_key_arn == null ? [] : [{
    Sid       = "TableKey"
    Effect    = "Allow"
    Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
    Resource  = local.key_arns
    Condition = { StringLike = { "kms:ViaService" = "dynamodb.*.${data.aws_partition.current.dns_suffix}" } }
  }]

  policy = {
    Version = "2012-10-17"
    Statement = concat(
      [{ Sid = local.table_sid, Effect = "Allow", Action = local.item_actions, Resource = local.table_arns }],
      local.index_statements,
      local.key_statements,
    )
  }

  operator_policy = {
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid      = local.table_sid
        Effect   = "Allow"
        Action   = concat(local.item_actions, local.operator_actions)
        Resource = local.table_arns
      }],
      local.index_statements,
      local.key_statements,
    )
  }
}
