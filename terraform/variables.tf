variable "name" {
  description = "Name of the table."
  type        = string
  default     = "sessions"
  nullable    = false

  validation {
    condition     = can(regex("^[a-zA-Z0-9_.-]{3,255}$", var.name))
    error_message = "name must be 3 to 255 letters, digits, underscores, dots or hyphens."
  }
}

variable "conversations" {
  description = "Whether the table is for agents' conversations, an item a message, instead of sessions. Use the module once for each."
  type        = bool
  default     = false
  nullable    = false
}

variable "owner_index" {
  description = "Whether to build the index that finds the sessions of one owner. Only sessions bound to an owner are in it."
  type        = bool
  default     = true
  nullable    = false
}

variable "tenant_index" {
  description = "Whether to build the index that finds the sessions of one tenant. Only sessions bound to a tenant are in it."
  type        = bool
  default     = false
  nullable    = false
}

# Objects are `any`: an object type would drop a key it does not know, and a misspelt one would be silently ignored.
# `locals.tf` fills in what is left out.

variable "autoscaling" {
  description = <<-EOT
    Null bills per request. An object provisions capacity and scales it: `read` and `write`, each `{ min, max }` in units,
    and `target_utilization` in percent, 70 by default. The index does not scale: its capacity is `index`, as
    `{ read, write }`, by default `read.min` and `write.max`.
  EOT
  type        = any
  default     = null

  validation {
    condition = var.autoscaling == null ? true : try(
      length(setsubtract(keys(var.autoscaling), ["read", "write", "target_utilization", "index"])) == 0 &&
      join(" ", keys(var.autoscaling.read)) == "max min" &&
      join(" ", keys(var.autoscaling.write)) == "max min" &&
      (try(var.autoscaling.index, null) == null ? true : join(" ", keys(var.autoscaling.index)) == "read write"),
      false
    )
    error_message = "autoscaling has the keys read and write, each { min, max }, and if wanted target_utilization and index, which is { read, write }. It has no others."
  }

  validation {
    condition = var.autoscaling == null ? true : try(alltrue([
      for range in [var.autoscaling.read, var.autoscaling.write] :
      range.min >= 1 && range.min <= range.max && floor(range.min) == range.min && floor(range.max) == range.max
    ]), false)
    error_message = "autoscaling.read and autoscaling.write need whole numbers with 1 <= min <= max."
  }

  validation {
    condition = try(var.autoscaling.target_utilization, null) == null ? true : try(
      var.autoscaling.target_utilization >= 20 && var.autoscaling.target_utilization <= 90, false
    )
    error_message = "autoscaling.target_utilization must be between 20 and 90 percent: DynamoDB takes no other."
  }

  validation {
    condition = try(var.autoscaling.index, null) == null ? true : try(alltrue([
      for units in values(var.autoscaling.index) : units >= 1 && floor(units) == units
    ]), false)
    error_message = "autoscaling.index needs whole numbers of at least 1."
  }
}

variable "on_demand_throughput" {
  description = <<-EOT
    The most an on-demand table may take, in units a second: `{ read, write }`, of which one may be left out. DynamoDB
    throttles what is above it, so that a flood of requests costs no more than this. Null: no limit but the account's.
  EOT
  type        = any
  default     = null

  validation {
    condition = var.on_demand_throughput == null ? true : try(
      length(var.on_demand_throughput) > 0 && length(setsubtract(keys(var.on_demand_throughput), ["read", "write"])) == 0 &&
      alltrue([for units in values(var.on_demand_throughput) : units >= 1 && floor(units) == units]),
      false
    )
    error_message = "on_demand_throughput has the keys read and write, whole numbers of at least 1. It has no others."
  }
}

variable "table_class" {
  description = "STANDARD, or STANDARD_INFREQUENT_ACCESS, whose storage costs less and whose requests cost more: for sessions that are stored for long and rarely used."
  type        = string
  default     = "STANDARD"
  nullable    = false

  validation {
    condition     = contains(["STANDARD", "STANDARD_INFREQUENT_ACCESS"], var.table_class)
    error_message = "table_class must be STANDARD or STANDARD_INFREQUENT_ACCESS."
  }
}

variable "region" {
  description = "Region the table must be in. Null: wherever the provider is. The plan is refused if the provider is in another."
  type        = string
  default     = null

  validation {
    condition     = var.region == null ? true : can(regex("^[a-z]{2,}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region must be the name of a Region, such as eu-west-1."
  }
}

variable "resource_policy" {
  description = "Policy of the table itself, in JSON: what lets another account use it. Null: none."
  type        = string
  default     = null

  validation {
    condition     = var.resource_policy == null ? true : can(jsondecode(var.resource_policy).Statement)
    error_message = "resource_policy must be a policy document in JSON, as jsonencode() makes it."
  }
}

variable "kms_key_arn" {
  description = "ARN of the customer managed KMS key to encrypt the table with. Null leaves it to a key that AWS owns, at no cost."
  type        = string
  default     = null

  # IAM policies name a key by its own ARN: an alias in them grants nothing.
  validation {
    condition     = var.kms_key_arn == null ? true : can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, not an alias or a bare id."
  }
}

variable "point_in_time_recovery" {
  description = "Whether the table can be restored to any second of the last days."
  type        = bool
  default     = true
  nullable    = false
}

variable "point_in_time_recovery_days" {
  description = "How many days back the table can be restored to: 1 to 35."
  type        = number
  default     = 35
  nullable    = false

  validation {
    condition     = var.point_in_time_recovery_days >= 1 && var.point_in_time_recovery_days <= 35 && floor(var.point_in_time_recovery_days) == var.point_in_time_recovery_days
    error_message = "point_in_time_recovery_days must be a whole number from 1 to 35."
  }
}

variable "stream" {
  description = "What the table's stream holds of each change: KEYS_ONLY, NEW_IMAGE, OLD_IMAGE or NEW_AND_OLD_IMAGES. Null: no stream, but replicas turn on the last."
  type        = string
  default     = null

  validation {
    condition     = var.stream == null ? true : contains(["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"], var.stream)
    error_message = "stream must be KEYS_ONLY, NEW_IMAGE, OLD_IMAGE or NEW_AND_OLD_IMAGES."
  }
}

variable "deletion_protection" {
  description = "Whether DynamoDB refuses to delete the table. Turn it off and apply before a destroy."
  type        = bool
  default     = true
  nullable    = false
}

variable "replicas" {
  description = <<-EOT
    Other Regions to replicate the table to, which makes it a global table: a list of `{ region_name, kms_key_arn }`. With
    `kms_key_arn` set, each replica names a key of its own Region; without, none does.
  EOT
  type        = any
  default     = []
  nullable    = false

  validation {
    condition = try(alltrue([
      for replica in var.replicas :
      length(setsubtract(keys(replica), ["region_name", "kms_key_arn"])) == 0 && replica.region_name != null
    ]), false)
    error_message = "replicas is a list of objects with the keys region_name and, if wanted, kms_key_arn. They have no others."
  }

  validation {
    condition     = try(alltrue([for replica in var.replicas : can(regex("^[a-z]{2,}(-[a-z]+)+-[0-9]+$", replica.region_name))]), false)
    error_message = "replicas[*].region_name must be the name of a Region, such as eu-west-1."
  }

  validation {
    condition     = try(length(distinct([for replica in var.replicas : replica.region_name])) == length(var.replicas), false)
    error_message = "replicas must not name a Region twice."
  }

  validation {
    condition = try(alltrue([
      for replica in var.replicas : try(replica.kms_key_arn, null) == null ? true :
      can(regex("^arn:aws[a-z-]*:kms:${replica.region_name}:[0-9]{12}:key/.+$", replica.kms_key_arn))
    ]), false)
    error_message = "replicas[*].kms_key_arn must be the ARN of a key in the replica's own Region."
  }
}

variable "alarms" {
  description = <<-EOT
    CloudWatch alarms, none unless `enabled` is true. `sns_topic_arns`: the SNS topics told when one goes off and when it is
    over. Each goes off above its threshold in 3 of 5 minutes: `throttles`, of table and index; `key_throttles`, those of
    one hot key or its neighbours; `system_errors`; `conflicts`, of transactions, all per minute; `latency_ms`, the slowest
    operation's 99th percentile inside DynamoDB; `replication_ms`, per replica, in 2 of 3 times 5 minutes. With
    `log_group_name`, the log group of the app, also when sessions are kept in memory because DynamoDB cannot be
    initialised.
  EOT
  type        = any
  default     = {}
  nullable    = false

  validation {
    condition = try(length(setsubtract(keys(var.alarms), [
      "enabled", "sns_topic_arns", "log_group_name",
      "throttles", "key_throttles", "system_errors", "conflicts", "latency_ms", "replication_ms",
    ])) == 0, false)
    error_message = "alarms has the keys enabled, sns_topic_arns, log_group_name, throttles, key_throttles, system_errors, conflicts, latency_ms and replication_ms. It has no others."
  }

  validation {
    condition     = try(alltrue([for arn in coalesce(try(var.alarms.sns_topic_arns, null), []) : can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:.+$", arn))]), false)
    error_message = "alarms.sns_topic_arns must be a list of ARNs of SNS topics."
  }

  validation {
    condition = try(
      alltrue([for name in ["throttles", "key_throttles", "system_errors", "conflicts"] : coalesce(try(var.alarms[name], null), 0) >= 0]) &&
      alltrue([for name in ["latency_ms", "replication_ms"] : coalesce(try(var.alarms[name], null), 1) > 0]),
      false
    )
    error_message = "alarms thresholds must be numbers that are not negative, and latency_ms and replication_ms more than 0."
  }

  validation {
    condition = try(
      tobool(coalesce(try(var.alarms.enabled, null), false)) || length(coalesce(try(var.alarms.sns_topic_arns, null), [])) == 0 && try(var.alarms.log_group_name, null) == null,
      false
    )
    error_message = "alarms.enabled must be true where sns_topic_arns or log_group_name is set: nobody would be told anything."
  }
}

variable "tags" {
  description = "Tags for everything the module makes, replicas included."
  type        = map(string)
  default     = {}
  nullable    = false
}
