# The alarms, when they are asked for.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }

  mock_data "aws_partition" {
    defaults = { dns_suffix = "amazonaws.com" }
  }
}

variables {
  tags   = { team = "shop" }
  alarms = { enabled = true, sns_topic_arns = ["arn:aws:sns:eu-west-1:123456789012:on-call"] }
}

run "throttles" {
  command = plan

  assert {
    condition = { for alarm in aws_cloudwatch_metric_alarm.throttles : alarm.alarm_name => [alarm.metric_name, alarm.dimensions] } == {
      sessions-table-read-throttles            = ["ReadThrottleEvents", tomap({ TableName = "sessions" })]
      sessions-table-write-throttles           = ["WriteThrottleEvents", tomap({ TableName = "sessions" })]
      sessions-table-read-key-throttles        = ["ReadKeyRangeThroughputThrottleEvents", tomap({ TableName = "sessions" })]
      sessions-table-write-key-throttles       = ["WriteKeyRangeThroughputThrottleEvents", tomap({ TableName = "sessions" })]
      sessions-owner-index-read-throttles      = ["ReadThrottleEvents", tomap({ TableName = "sessions", GlobalSecondaryIndexName = "owner-index" })]
      sessions-owner-index-write-throttles     = ["WriteThrottleEvents", tomap({ TableName = "sessions", GlobalSecondaryIndexName = "owner-index" })]
      sessions-owner-index-read-key-throttles  = ["ReadKeyRangeThroughputThrottleEvents", tomap({ TableName = "sessions", GlobalSecondaryIndexName = "owner-index" })]
      sessions-owner-index-write-key-throttles = ["WriteKeyRangeThroughputThrottleEvents", tomap({ TableName = "sessions", GlobalSecondaryIndexName = "owner-index" })]
    }
    error_message = "Reads and writes are watched, on the table and on the index."
  }

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.throttles :
      alarm.namespace == "AWS/DynamoDB" && alarm.statistic == "Sum" && alarm.period == 60 && alarm.threshold == 0 &&
      alarm.comparison_operator == "GreaterThanThreshold"
    ])
    error_message = "Any throttled request counts, by the minute."
  }
}

run "errors_and_latency" {
  command = plan

  assert {
    condition = {
      for alarm in aws_cloudwatch_metric_alarm.per_operation : alarm.alarm_name => one([
        for query in alarm.metric_query : query.expression if query.return_data == true
      ])
      } == {
      sessions-system-errors = "SUM([FILL(getitem, 0), FILL(putitem, 0), FILL(updateitem, 0), FILL(deleteitem, 0), FILL(transactwriteitems, 0), FILL(query, 0)])"
      sessions-latency       = "MAX([FILL(getitem, 0), FILL(putitem, 0), FILL(updateitem, 0), FILL(deleteitem, 0), FILL(transactwriteitems, 0), FILL(query, 0)])"
    }
    error_message = "Errors add up over the operations; of the latencies the worst counts."
  }

  assert {
    condition = {
      for key, alarm in aws_cloudwatch_metric_alarm.per_operation : key => {
        for query in alarm.metric_query : query.id => [
          query.metric[0].namespace, query.metric[0].metric_name, query.metric[0].stat, query.metric[0].dimensions.Operation,
        ] if length(query.metric) > 0
      }
      } == {
      for key, metric in { system-errors = ["SystemErrors", "Sum"], latency = ["SuccessfulRequestLatency", "p99"] } : key => {
        for operation in ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems", "Query"] :
        lower(operation) => ["AWS/DynamoDB", metric[0], metric[1], operation]
      }
    }
    error_message = "Every operation the store sends is watched, by the metric AWS keeps of it."
  }

  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.per_operation : key => alarm.threshold } == {
      system-errors = 0
      latency       = 50
    }
    error_message = "Any error counts; latency has 50 ms."
  }
}

run "all_of_them" {
  command = plan

  variables {
    replicas = [{ region_name = "us-east-1" }]
    alarms = {
      enabled        = true
      sns_topic_arns = ["arn:aws:sns:eu-west-1:123456789012:on-call"]
      log_group_name = "/aws/lambda/shop"
    }
  }

  assert {
    condition = (
      [for alarm in aws_cloudwatch_metric_alarm.conflicts : [alarm.metric_name, alarm.dimensions, alarm.threshold]] == [
        ["TransactionConflict", tomap({ TableName = "sessions" }), 100],
      ] &&
      [for alarm in aws_cloudwatch_metric_alarm.replication : [alarm.metric_name, alarm.dimensions, alarm.threshold]] == [
        ["ReplicationLatency", tomap({ TableName = "sessions", ReceivingRegion = "us-east-1" }), 60000],
      ]
    )
    error_message = "Conflicts of transactions are watched, and how late each replica is."
  }

  assert {
    condition = [
      for filter in aws_cloudwatch_log_metric_filter.fallback :
      [filter.log_group_name, filter.pattern, filter.metric_transformation[0].namespace, filter.metric_transformation[0].name]
      ] == [
      for alarm in aws_cloudwatch_metric_alarm.fallback :
      ["/aws/lambda/shop", "\"sessions are kept in this process\"", alarm.namespace, alarm.metric_name]
    ]
    error_message = "The line that the app logs when memory stands in is counted, and the count is watched."
  }

  assert {
    condition = length(aws_cloudwatch_metric_alarm.fallback) == 1 && alltrue([
      for alarm in concat(values(aws_cloudwatch_metric_alarm.conflicts), values(aws_cloudwatch_metric_alarm.replication), values(aws_cloudwatch_metric_alarm.fallback)) :
      alarm.alarm_actions == toset(var.alarms.sns_topic_arns) && alarm.ok_actions == toset(var.alarms.sns_topic_arns) &&
      alarm.treat_missing_data == "notBreaching" && alarm.tags.team == "shop"
    ])
    error_message = "These tell the topics too."
  }

  assert {
    condition = alltrue([
      for alarm in concat(values(aws_cloudwatch_metric_alarm.throttles), values(aws_cloudwatch_metric_alarm.per_operation)) :
      alarm.alarm_actions == toset(var.alarms.sns_topic_arns) && alarm.ok_actions == toset(var.alarms.sns_topic_arns) &&
      alarm.treat_missing_data == "notBreaching" && alarm.evaluation_periods == 5 && alarm.datapoints_to_alarm == 3 &&
      alarm.tags.team == "shop"
    ])
    error_message = "Every alarm tells the topics when it starts and ends, and silence is no alarm."
  }
}

run "thresholds" {
  command = plan

  variables {
    alarms = { enabled = true, throttles = 10, key_throttles = 3, system_errors = 5, latency_ms = 20, conflicts = null }
  }

  assert {
    condition     = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.throttles : alarm.threshold == (endswith(key, "-key") ? 3 : 10)])
    error_message = "The throttles have the given threshold."
  }

  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.per_operation : key => alarm.threshold } == {
      system-errors = 5
      latency       = 20
    }
    error_message = "Errors and latency have the given thresholds."
  }
}

run "without_index" {
  command = plan

  variables {
    owner_index = false
  }

  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.throttles)) == toset(["table-read", "table-write", "table-read-key", "table-write-key"])
    error_message = "An index that does not exist is not watched."
  }

  assert {
    condition = alltrue(flatten([
      for alarm in aws_cloudwatch_metric_alarm.per_operation : [for query in alarm.metric_query : query.id != "query"]
    ]))
    error_message = "Nor are queries on it."
  }
}

run "first_apply" {
  command = plan

  module {
    source = "./tests/first_apply"
  }

  assert {
    condition     = module.sessions.table_name == "sessions"
    error_message = "What is not known before the apply must not keep it from being planned."
  }
}
