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

variable "autoscaling" {
  description = <<-EOT
    Null bills per request. An object provisions capacity and scales it between `min` and `max` units, aiming at
    `target_utilization` percent. The index does not scale: its capacity is `index`, by default `read.min` and `write.max`.
  EOT
  type = object({
    read               = object({ min = number, max = number })
    write              = object({ min = number, max = number })
    target_utilization = optional(number, 70)
    index              = optional(object({ read = number, write = number }))
  })
  default = null

  validation {
    condition = var.autoscaling == null ? true : alltrue([
      for range in [var.autoscaling.read, var.autoscaling.write] :
      range.min >= 1 && range.min <= range.max && floor(range.min) == range.min && floor(range.max) == range.max
    ])
    error_message = "autoscaling.read and autoscaling.write need whole numbers with 1 <= min <= max."
  }

  validation {
    condition = var.autoscaling == null ? true : (
      var.autoscaling.target_utilization >= 20 && var.autoscaling.target_utilization <= 90
    )
    error_message = "autoscaling.target_utilization must be between 20 and 90 percent: DynamoDB takes no other."
  }

  validation {
    condition = try(var.autoscaling.index, null) == null ? true : alltrue([
      for units in values(var.autoscaling.index) : units >= 1 && floor(units) == units
    ])
    error_message = "autoscaling.index needs whole numbers of at least 1."
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
  description = "Whether the table can be restored to any second of the last 35 days."
  type        = bool
  default     = true
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether DynamoDB refuses to delete the table. Turn it off and apply before a destroy."
  type        = bool
  default     = true
  nullable    = false
}

variable "replicas" {
  description = <<-EOT
    Other Regions to replicate the table to, which makes it a global table. With `kms_key_arn` set, each replica names
    a key of its own Region; without, none does.
  EOT
  type = list(object({
    region_name = string
    kms_key_arn = optional(string)
  }))
  default  = []
  nullable = false

  validation {
    condition     = alltrue([for replica in var.replicas : can(regex("^[a-z]{2,}(-[a-z]+)+-[0-9]+$", replica.region_name))])
    error_message = "replicas[*].region_name must be the name of a Region, such as eu-west-1."
  }

  validation {
    condition     = length(distinct(var.replicas[*].region_name)) == length(var.replicas)
    error_message = "replicas must not name a Region twice."
  }

  validation {
    condition = alltrue([
      for replica in var.replicas : replica.kms_key_arn == null ? true :
      can(regex("^arn:aws[a-z-]*:kms:${replica.region_name}:[0-9]{12}:key/.+$", replica.kms_key_arn))
    ])
    error_message = "replicas[*].kms_key_arn must be the ARN of a key in the replica's own Region."
  }
}

variable "alarms" {
  description = <<-EOT
    CloudWatch alarms, and the SNS topics told when one goes off and when it is over. An alarm goes off when its
    threshold is exceeded in 3 of 5 minutes: `throttles` and `system_errors` per minute, `latency_ms` on average.
  EOT
  type = object({
    enabled        = optional(bool, false)
    sns_topic_arns = optional(list(string), [])
    throttles      = optional(number, 0)
    system_errors  = optional(number, 0)
    latency_ms     = optional(number, 50)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for arn in var.alarms.sns_topic_arns : can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:.+$", arn))])
    error_message = "alarms.sns_topic_arns must be ARNs of SNS topics."
  }

  validation {
    condition     = var.alarms.throttles >= 0 && var.alarms.system_errors >= 0 && var.alarms.latency_ms > 0
    error_message = "alarms thresholds must not be negative, and latency_ms must be more than 0."
  }

  validation {
    condition     = var.alarms.enabled || length(var.alarms.sns_topic_arns) == 0
    error_message = "alarms.sns_topic_arns is set while alarms.enabled is false: nobody would be told anything."
  }
}

variable "tags" {
  description = "Tags for everything the module makes, replicas included."
  type        = map(string)
  default     = {}
  nullable    = false
}
