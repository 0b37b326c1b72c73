# Every input that must be refused, one run each.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }

  mock_data "aws_partition" {
    defaults = { dns_suffix = "amazonaws.com" }
  }
}

run "name_too_short" {
  command = plan
  variables {
    name = "ab"
  }
  expect_failures = [var.name]
}

run "name_with_a_slash" {
  command = plan
  variables {
    name = "shop/sessions"
  }
  expect_failures = [var.name]
}

run "autoscaling_min_above_max" {
  command = plan
  variables {
    autoscaling = { read = { min = 5, max = 4 }, write = { min = 1, max = 2 } }
  }
  expect_failures = [var.autoscaling]
}

run "autoscaling_from_zero" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, max = 4 }, write = { min = 0, max = 2 } }
  }
  expect_failures = [var.autoscaling]
}

run "autoscaling_in_fractions" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, max = 4.5 }, write = { min = 1, max = 2 } }
  }
  expect_failures = [var.autoscaling]
}

run "autoscaling_target_too_low" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, max = 4 }, write = { min = 1, max = 2 }, target_utilization = 19 }
  }
  expect_failures = [var.autoscaling]
}

run "autoscaling_target_too_high" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, max = 4 }, write = { min = 1, max = 2 }, target_utilization = 91 }
  }
  expect_failures = [var.autoscaling]
}

run "autoscaling_index_of_nothing" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, max = 4 }, write = { min = 1, max = 2 }, index = { read = 1, write = 0 } }
  }
  expect_failures = [var.autoscaling]
}

run "key_by_alias" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:alias/sessions"
  }
  expect_failures = [var.kms_key_arn]
}

run "key_by_id" {
  command = plan
  variables {
    kms_key_arn = "0f1e2d3c-0000-0000-0000-000000000000"
  }
  expect_failures = [var.kms_key_arn]
}

run "replica_in_no_region" {
  command = plan
  variables {
    replicas = [{ region_name = "Ireland" }]
  }
  expect_failures = [var.replicas]
}

run "replica_twice" {
  command = plan
  variables {
    replicas = [{ region_name = "us-east-1" }, { region_name = "us-east-1" }]
  }
  expect_failures = [var.replicas]
}

run "replica_with_a_key_from_elsewhere" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one"
    replicas    = [{ region_name = "us-east-1", kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one" }]
  }
  expect_failures = [var.replicas]
}

run "replica_without_a_key" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one"
    replicas    = [{ region_name = "us-east-1" }]
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "only_the_replica_has_a_key" {
  command = plan
  variables {
    replicas = [{ region_name = "us-east-1", kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/two" }]
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "replicas_of_a_provisioned_table" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, max = 4 }, write = { min = 1, max = 2 } }
    replicas    = [{ region_name = "us-east-1" }]
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "alarms_to_something_else" {
  command = plan
  variables {
    alarms = { enabled = true, sns_topic_arns = ["on-call@example.com"] }
  }
  expect_failures = [var.alarms]
}

run "alarms_below_zero" {
  command = plan
  variables {
    alarms = { enabled = true, throttles = -1 }
  }
  expect_failures = [var.alarms]
}

run "alarms_without_latency" {
  command = plan
  variables {
    alarms = { enabled = true, latency_ms = 0 }
  }
  expect_failures = [var.alarms]
}

run "topics_without_alarms" {
  command = plan
  variables {
    alarms = { sns_topic_arns = ["arn:aws:sns:eu-west-1:123456789012:on-call"] }
  }
  expect_failures = [var.alarms]
}

run "misspelt_keys" {
  command = plan
  variables {
    autoscaling          = { read = { min = 1, max = 4 }, write = { min = 1, max = 2 }, target_utilisation = 50 }
    replicas             = [{ region_name = "us-east-1" }, { region_name = "us-west-2", kms_key = "x" }]
    alarms               = { enabled = true, latency = 20 }
    on_demand_throughput = { writes = 100 }
  }
  expect_failures = [var.autoscaling, var.replicas, var.alarms, var.on_demand_throughput]
}

run "misspelt_keys_further_in" {
  command = plan
  variables {
    autoscaling = { read = { min = 1, maximum = 4, max = 4 }, write = { min = 1, max = 2 } }
    replicas    = ["us-east-1"]
    alarms      = "yes"
  }
  expect_failures = [var.autoscaling, var.replicas, var.alarms]
}

run "what_dynamodb_does_not_know" {
  command = plan
  variables {
    table_class                 = "STANDARD_IA"
    stream                      = "ALL"
    region                      = "Ireland"
    point_in_time_recovery_days = 36
    resource_policy             = "allow everything"
    on_demand_throughput        = { write = 0 }
    alarms                      = { log_group_name = "/aws/lambda/shop" }
  }
  expect_failures = [
    var.table_class, var.stream, var.region, var.point_in_time_recovery_days, var.resource_policy,
    var.on_demand_throughput, var.alarms,
  ]
}

run "replica_where_the_table_is" {
  command = plan
  variables {
    replicas = [{ region_name = "eu-west-1" }]
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "key_of_another_region" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/one"
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "another_region_than_the_providers" {
  command = plan
  variables {
    region = "eu-central-1"
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "replicas_by_a_stream_without_images" {
  command = plan
  variables {
    stream   = "KEYS_ONLY"
    replicas = [{ region_name = "us-east-1" }]
  }
  expect_failures = [aws_dynamodb_table.this]
}

run "a_limit_of_a_provisioned_table" {
  command = plan
  variables {
    autoscaling          = { read = { min = 1, max = 4 }, write = { min = 1, max = 2 } }
    on_demand_throughput = { read = 100 }
  }
  expect_failures = [aws_dynamodb_table.this]
}
