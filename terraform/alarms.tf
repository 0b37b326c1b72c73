# What DynamoDB does to the sessions: turn requests away, fail, or take long. Alarms watch the table's own Region.

locals {
  dimensions = merge(
    { table = { TableName = var.name } },
    var.owner_index ? { owner-index = { TableName = var.name, GlobalSecondaryIndexName = "owner-index" } } : {},
    var.tenant_index ? { tenant-index = { TableName = var.name, GlobalSecondaryIndexName = "tenant-index" } } : {},
  )

  # CloudWatch counts an index's throttles apart from its table's. Those of a key range, which is what a hot key is
  # throttled by, are counted again by themselves. ThrottledRequests would count the same, once a request.
  # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/TroubleshootingThrottling-cloudwatch.html
  throttles = merge([
    for part, dimensions in local.dimensions : merge([
      for kind in ["Read", "Write"] : {
        "${part}-${lower(kind)}" = {
          metric     = "${kind}ThrottleEvents"
          dimensions = dimensions
          threshold  = local.alarms.throttles
          summary    = "DynamoDB throttled ${lower(kind)}s"
        }
        "${part}-${lower(kind)}-key" = {
          metric     = "${kind}KeyRangeThroughputThrottleEvents"
          dimensions = dimensions
          threshold  = local.alarms.key_throttles
          summary    = "One hot key, or its neighbours, took more ${lower(kind)}s than a partition gives: more capacity does not help. Throttled ${lower(kind)}s"
        }
      }
    ]...)
  ]...)

  # Failed conditions (ConditionalCheckFailedRequests) are not watched: they are how the store finds that a session has
  # ended or was changed meanwhile, and are part of every normal day.
  conflicts = local.alarms.enabled ? { this = { TableName = var.name } } : {}

  # What src/dynamodb_sessions/stores/fallback.py logs at ERROR, at most every 5 minutes a process.
  fallback = local.alarms.enabled && local.alarms.log_group_name != null ? { this = local.alarms.log_group_name } : {}

  # Errors and latency exist per operation only. The application is allowed no others.
  operations = concat(
    ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems"],
    var.owner_index || var.tenant_index ? ["Query"] : [],
  )

  per_operation = {
    system-errors = {
      metric    = "SystemErrors"
      stat      = "Sum"
      combine   = "SUM"
      threshold = local.alarms.system_errors
      summary   = "DynamoDB answered requests with HTTP 500"
    }
    latency = {
      metric    = "SuccessfulRequestLatency"
      stat      = "p99"
      combine   = "MAX"
      threshold = local.alarms.latency_ms
      summary   = "Of the slowest kind of request, one in a hundred takes more than ${local.alarms.latency_ms} ms inside DynamoDB"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "throttles" {
  for_each = local.alarms.enabled ? local.throttles : {}

  alarm_name          = "${var.name}-${each.key}-throttles"
  alarm_description   = "${each.value.summary} of ${join("/", values(each.value.dimensions))}"
  namespace           = "AWS/DynamoDB"
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  treat_missing_data  = "notBreaching" # DynamoDB reports throttles only when there are some
  alarm_actions       = local.alarms.sns_topic_arns
  ok_actions          = local.alarms.sns_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "per_operation" {
  for_each = local.alarms.enabled ? local.per_operation : {}

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.summary} (table ${var.name})"
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarms.sns_topic_arns
  ok_actions          = local.alarms.sns_topic_arns
  tags                = var.tags

  # An operation that was not called in a minute reports nothing, and must not take the others' values with it.
  metric_query {
    id          = "result"
    label       = each.value.metric
    expression  = "${each.value.combine}([${join(", ", [for operation in local.operations : "FILL(${lower(operation)}, 0)"])}])"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = local.operations

    content {
      id = lower(metric_query.value)

      metric {
        namespace   = "AWS/DynamoDB"
        metric_name = each.value.metric
        period      = 60
        stat        = each.value.stat
        dimensions  = { TableName = var.name, Operation = metric_query.value }
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "conflicts" {
  for_each = local.conflicts

  alarm_name          = "${var.name}-conflicts"
  alarm_description   = "Transactions on one session at the same time were refused and repeated (table ${var.name})"
  namespace           = "AWS/DynamoDB"
  metric_name         = "TransactionConflict"
  dimensions          = each.value
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = local.alarms.conflicts
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarms.sns_topic_arns
  ok_actions          = local.alarms.sns_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "replication" {
  for_each = toset(local.alarms.enabled ? [for replica in local.replicas : replica.region_name] : [])

  alarm_name          = "${var.name}-replication-${each.key}"
  alarm_description   = "Changes of table ${var.name} take more than ${local.alarms.replication_ms} ms to arrive in ${each.key}: a failover now would lose them"
  namespace           = "AWS/DynamoDB"
  metric_name         = "ReplicationLatency"
  dimensions          = { TableName = var.name, ReceivingRegion = each.key }
  statistic           = "Average"
  period              = 300 # DynamoDB reports it every 5 minutes
  evaluation_periods  = 3
  datapoints_to_alarm = 2
  comparison_operator = "GreaterThanThreshold"
  threshold           = local.alarms.replication_ms
  treat_missing_data  = "notBreaching" # nothing was written
  alarm_actions       = local.alarms.sns_topic_arns
  ok_actions          = local.alarms.sns_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_log_metric_filter" "fallback" {
  for_each = local.fallback

  name           = "${var.name}-fallback"
  log_group_name = each.value
  pattern        = "\"sessions are kept in this process\""

  metric_transformation {
    namespace     = "dynamodb-sessions"
    name          = "${var.name}-fallback"
    value         = "1"
    default_value = "0"
  }
}

# Goes off at the first line: until somebody acts, each process has sessions of its own, and they end with it.
resource "aws_cloudwatch_metric_alarm" "fallback" {
  for_each = aws_cloudwatch_log_metric_filter.fallback

  alarm_name          = "${var.name}-fallback"
  alarm_description   = "DynamoDB cannot be initialised, so sessions are kept in memory. The app's log says why, in ${each.value.log_group_name}"
  namespace           = "dynamodb-sessions"
  metric_name         = "${var.name}-fallback"
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  datapoints_to_alarm = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarms.sns_topic_arns
  ok_actions          = local.alarms.sns_topic_arns
  tags                = var.tags
}
