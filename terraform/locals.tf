# The inputs with their defaults filled in, and where the table is.

data "aws_region" "current" {}

data "aws_partition" "current" {}

locals {
  # `id` is the Region's name in version 5 and 6 of the provider; `name` is deprecated in 6.
  region = data.aws_region.current.id

  autoscaling = var.autoscaling == null ? null : merge({ target_utilization = 70, index = null }, {
    for name, value in var.autoscaling : name => value if value != null
  })

  replicas = [for replica in var.replicas : merge({ kms_key_arn = null }, replica)]

  # Each by itself: how many alarms there are must be known before the topics are there.
  alarms = {
    enabled        = coalesce(try(var.alarms.enabled, null), false)
    sns_topic_arns = coalesce(try(var.alarms.sns_topic_arns, null), [])
    log_group_name = try(var.alarms.log_group_name, null)
    throttles      = coalesce(try(var.alarms.throttles, null), 0)
    key_throttles  = coalesce(try(var.alarms.key_throttles, null), 0)
    system_errors  = coalesce(try(var.alarms.system_errors, null), 0)
    conflicts      = coalesce(try(var.alarms.conflicts, null), 100)
    latency_ms     = coalesce(try(var.alarms.latency_ms, null), 50)
    replication_ms = coalesce(try(var.alarms.replication_ms, null), 60000)
  }
}
