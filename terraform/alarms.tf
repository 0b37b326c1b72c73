# What DynamoDB does to the sessions: turn requests away, fail, or take long. Alarms watch the table's own Region.

locals {
  dimensions = merge(
    { table = { TableName = var.name } },
    var.owner_index ? { owner-index = { TableName = var.name, GlobalSecondaryIndexName = "owner-index" } } : {},
  )

  # CloudWatch counts an index's throttles apart from its table's.
  throttles = merge([
    for part, dimensions in local.dimensions : {
      for kind in ["Read", "Write"] : "${part}-${lower(kind)}" => { metric = "${kind}ThrottleEvents", dimensions = dimensions }
    }
  ]...)

  # Errors and latency exist per operation only. The application is allowed no others.
  operations = concat(
    ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems"],
    var.owner_index ? ["Query"] : [],
  )

  per_operation = {
    system-errors = {
      metric    = "SystemErrors"
      stat      = "Sum"
      combine   = "SUM"
      threshold = var.alarms.system_errors
      summary   = "DynamoDB answered requests with HTTP 500"
    }
    latency = {
      metric    = "SuccessfulRequestLatency"
      stat      = "Average"
      combine   = "MAX"
      threshold = var.alarms.latency_ms
      summary   = "The slowest kind of request takes more than ${var.alarms.latency_ms} ms inside DynamoDB on average"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "throttles" {
  for_each = var.alarms.enabled ? local.throttles : {}

  alarm_name          = "${var.name}-${each.key}-throttles"
  alarm_description   = "DynamoDB throttled ${each.value.metric == "ReadThrottleEvents" ? "reads" : "writes"} of ${join("/", values(each.value.dimensions))}"
  namespace           = "AWS/DynamoDB"
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.alarms.throttles
  treat_missing_data  = "notBreaching" # DynamoDB reports throttles only when there are some
  alarm_actions       = var.alarms.sns_topic_arns
  ok_actions          = var.alarms.sns_topic_arns
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "per_operation" {
  for_each = var.alarms.enabled ? local.per_operation : {}

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.summary} (table ${var.name})"
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.sns_topic_arns
  ok_actions          = var.alarms.sns_topic_arns
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
