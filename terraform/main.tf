# The table. Its keys, its index and its TTL attribute are those of `src/dynamodb_sessions/stores/table_schema.py`.

locals {
  provisioned = var.autoscaling != null
  replicated  = length(local.replicas) > 0

  # Terraform cannot ignore one capacity inside an index block, so an index that scaled would be reset by every apply.
  # It stays fixed, by default at the most the table can write: an index short of capacity throttles the table's writes.
  index_capacity = local.provisioned ? coalesce(local.autoscaling.index, {
    read  = local.autoscaling.read.min
    write = local.autoscaling.write.max
  }) : { read = null, write = null }
}

resource "aws_dynamodb_table" "this" {
  #checkov:skip=CKV_AWS_119:A key of one's own is the input kms_key_arn. Without it the table is encrypted too, with a key that AWS owns.
  name                        = var.name
  billing_mode                = local.provisioned ? "PROVISIONED" : "PAY_PER_REQUEST"
  read_capacity               = local.provisioned ? local.autoscaling.read.min : null
  write_capacity              = local.provisioned ? local.autoscaling.write.min : null
  hash_key                    = "session_id"
  range_key                   = var.conversations ? "position" : null
  deletion_protection_enabled = var.deletion_protection
  tags                        = var.tags
  table_class                 = var.table_class

  # Replication reads the stream; nothing else here does.
  stream_enabled   = local.replicated || var.stream != null
  stream_view_type = local.replicated ? "NEW_AND_OLD_IMAGES" : var.stream

  attribute {
    name = "session_id"
    type = "S"
  }

  # DynamoDB refuses to declare an attribute that no key uses.
  dynamic "attribute" {
    for_each = merge(
      var.conversations ? { position = "N" } : {},
      var.owner_index ? { owner = "S", created_at = "N" } : {},
      var.tenant_index ? { tenant = "S", owner = "S" } : {},
    )

    content {
      name = attribute.key
      type = attribute.value
    }
  }

  # Keys only, and none that changes: saving or touching a session never writes to the index.
  dynamic "global_secondary_index" {
    for_each = merge(
      var.owner_index ? { owner-index = ["owner", "created_at"] } : {},
      var.tenant_index ? { tenant-index = ["tenant", "owner"] } : {},
    )

    content {
      name            = global_secondary_index.key
      hash_key        = global_secondary_index.value[0]
      range_key       = global_secondary_index.value[1]
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
    enabled                 = var.point_in_time_recovery
    recovery_period_in_days = var.point_in_time_recovery ? var.point_in_time_recovery_days : null
  }

  dynamic "on_demand_throughput" {
    for_each = var.on_demand_throughput == null ? [] : [var.on_demand_throughput]

    content {
      max_read_request_units  = try(on_demand_throughput.value.read, null)
      max_write_request_units = try(on_demand_throughput.value.write, null)
    }
  }

  # Written out even when off: leaving the block away later would keep the old key in place.
  # Off means a key that AWS owns, never no encryption.
  server_side_encryption {
    enabled     = var.kms_key_arn != null
    kms_key_arn = var.kms_key_arn
  }

  dynamic "replica" {
    for_each = local.replicas

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
      condition     = alltrue([for replica in local.replicas : (replica.kms_key_arn == null) == (var.kms_key_arn == null)])
      error_message = "Give a KMS key to the table and to every replica, or to none of them."
    }

    precondition {
      condition     = var.region == null || var.region == local.region
      error_message = "region is ${coalesce(var.region, "null")}, and the provider is in ${local.region}: the table would be made there."
    }

    precondition {
      condition     = !contains([for replica in local.replicas : replica.region_name], local.region)
      error_message = "replicas names ${local.region}, which is where the table itself is: name other Regions only."
    }

    precondition {
      condition     = var.kms_key_arn == null ? true : try(split(":", var.kms_key_arn)[3], null) == local.region
      error_message = "kms_key_arn is of another Region than the table, which is in ${local.region}: DynamoDB takes keys of its own Region only."
    }

    precondition {
      condition     = !local.replicated || coalesce(var.stream, "NEW_AND_OLD_IMAGES") == "NEW_AND_OLD_IMAGES"
      error_message = "replicas need the stream NEW_AND_OLD_IMAGES: leave stream out."
    }

    precondition {
      condition     = !(local.provisioned && var.on_demand_throughput != null)
      error_message = "on_demand_throughput limits on-demand tables: autoscaling has its own max."
    }
  }
}

resource "aws_dynamodb_resource_policy" "this" {
  count = var.resource_policy == null ? 0 : 1

  resource_arn = aws_dynamodb_table.this.arn
  policy       = var.resource_policy
}

resource "aws_appautoscaling_target" "this" {
  for_each = local.provisioned ? { read = local.autoscaling.read, write = local.autoscaling.write } : {}

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
    target_value = local.autoscaling.target_utilization

    predefined_metric_specification {
      predefined_metric_type = "DynamoDB${title(each.key)}CapacityUtilization"
    }
  }
}
