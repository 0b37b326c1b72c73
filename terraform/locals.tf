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

  alarms = merge({
    enabled        = false
    sns_topic_arns = []
    log_group_name = null
    throttles      = 0
    key_throttles  = 0
    system_errors  = 0
    conflicts      = 100
    latency_ms     = 50
    replication_ms = 60000
  }, { for name, value in var.alarms : name => value if value != null })
}
