# The table. Its keys, its index and its TTL attribute are those of `src/dynamodb_sessions/table.py`.

locals {
  provisioned = var.autoscaling != null
  replicated  = length(var.replicas) > 0

  # Terraform cannot ignore one capacity inside an index block, so an index that scaled would be reset by every apply.
  # It stays fixed, by default at the most the table can write: an index short of capacity throttles the table's writes.
  index_capacity = local.provisioned ? coalesce(var.autoscaling.index, {
    read  = var.autoscaling.read.min
    write = var.autoscaling.write.max
  }) : { read = null, write = null }
}

resource "aws_dynamodb_table" "this" {
  name                        = var.name
  billing_mode                = local.provisioned ? "PROVISIONED" : "PAY_PER_REQUEST"
  read_capacity               = local.provisioned ? var.autoscaling.read.min : null
  write_capacity              = local.provisioned ? var.autoscaling.write.min : null
  hash_key                    = "session_id"
  range_key                   = var.conversations ? "position" : null
  deletion_protection_enabled = var.deletion_protection
  tags                        = var.tags

  # Replication reads the stream; nothing else here does.
  stream_enabled   = local.replicated
  stream_view_type = local.replicated ? "NEW_AND_OLD_IMAGES" : null

  attribute {
    name = "session_id"
    type = "S"
  }

  # DynamoDB refuses to declare an attribute that no key uses.
  dynamic "attribute" {
    for_each = merge(
      var.conversations ? { position = "N" } : {},
      var.owner_index ? { owner = "S", created_at = "N" } : {},
    )

    content {
      name = attribute.key
      type = attribute.value
    }
  }

  # Keys only, and none that changes: saving or touching a session never writes to the index.
  dynamic "global_secondary_index" {
    for_each = var.owner_index ? ["owner-index"] : []

    content {
      name            = global_secondary_index.value
      hash_key        = "owner"
      range_key       = "created_at"
      projection_type = "KEYS_ONLY"
      read_capacity   = local.index_capacity.read
      write_capacity  = local.index_capacity.write
    }
  }

  ttl {
    attribute_name = "ttl"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = var.point_in_time_recovery
  }

  # Written out even when off: leaving the block away later would keep the old key in place.
  # Off means a key that AWS owns, never no encryption.
  server_side_encryption {
    enabled     = var.kms_key_arn != null
    kms_key_arn = var.kms_key_arn
  }

  dynamic "replica" {
    for_each = var.replicas

    content {
      region_name            = replica.value.region_name
      kms_key_arn            = replica.value.kms_key_arn
      point_in_time_recovery = var.point_in_time_recovery
      propagate_tags         = true
    }
  }

  lifecycle {
    # Autoscaling's to change once the table exists.
    ignore_changes = [read_capacity, write_capacity]

    precondition {
      condition     = !(local.provisioned && local.replicated)
      error_message = "replicas need on-demand billing: DynamoDB adds a replica only to a table that already scales, and autoscaling is set up after the table."
    }

    precondition {
      condition     = alltrue([for replica in var.replicas : (replica.kms_key_arn == null) == (var.kms_key_arn == null)])
      error_message = "Give a KMS key to the table and to every replica, or to none of them."
    }
  }
}

resource "aws_appautoscaling_target" "this" {
  for_each = local.provisioned ? { read = var.autoscaling.read, write = var.autoscaling.write } : {}

  service_namespace  = "dynamodb"
  resource_id        = "table/${aws_dynamodb_table.this.name}"
  scalable_dimension = "dynamodb:table:${title(each.key)}CapacityUnits"
  min_capacity       = each.value.min
  max_capacity       = each.value.max
  tags               = var.tags
}

resource "aws_appautoscaling_policy" "this" {
  for_each = aws_appautoscaling_target.this

  name               = "${var.name}-${each.key}"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = each.value.service_namespace
  resource_id        = each.value.resource_id
  scalable_dimension = each.value.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value = var.autoscaling.target_utilization

    predefined_metric_specification {
      predefined_metric_type = "DynamoDB${title(each.key)}CapacityUtilization"
    }
  }
}
