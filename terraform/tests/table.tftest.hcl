# The table for every option. Planned by the real provider, whose own checks count, but with nobody to call:
# the credentials are made up and planning a new table asks AWS nothing.

provider "aws" {
  region                      = "eu-west-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

run "defaults" {
  command = plan

  assert {
    condition     = aws_dynamodb_table.this.name == "sessions" && output.table_name == "sessions"
    error_message = "The table is called what SESSION_TABLE_NAME defaults to."
  }

  assert {
    condition     = aws_dynamodb_table.this.hash_key == "session_id" && aws_dynamodb_table.this.range_key == null
    error_message = "The session id is the whole key."
  }

  assert {
    condition = { for attribute in aws_dynamodb_table.this.attribute : attribute.name => attribute.type } == {
      session_id = "S", owner = "S", created_at = "N"
    }
    error_message = "Only the attributes of keys are declared, with the types the store writes."
  }

  assert {
    condition     = aws_dynamodb_table.this.ttl[0].attribute_name == "ttl" && aws_dynamodb_table.this.ttl[0].enabled
    error_message = "DynamoDB removes expired sessions by the attribute the store writes."
  }

  assert {
    condition     = aws_dynamodb_table.this.billing_mode == "PAY_PER_REQUEST" && length(aws_appautoscaling_target.this) == 0
    error_message = "Billing is per request, with nothing to scale."
  }

  assert {
    condition     = aws_dynamodb_table.this.point_in_time_recovery[0].enabled && aws_dynamodb_table.this.deletion_protection_enabled
    error_message = "The table can be restored and cannot be deleted by accident."
  }

  assert {
    condition     = !aws_dynamodb_table.this.server_side_encryption[0].enabled
    error_message = "Without a key of one's own the table is left to the key that AWS owns, said outright."
  }

  assert {
    condition     = !aws_dynamodb_table.this.stream_enabled && length(aws_dynamodb_table.this.replica) == 0
    error_message = "One Region, and no stream nobody reads."
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.throttles) == 0 && length(aws_cloudwatch_metric_alarm.per_operation) == 0
    error_message = "Alarms cost money and need somebody to listen: none unless asked for."
  }

  assert {
    condition     = output.environment == { USE_DYNAMODB_SESSIONS = "true", SESSION_TABLE_NAME = "sessions" }
    error_message = "The environment is the two variables the package reads."
  }
}

run "owner_index" {
  command = plan

  assert {
    condition = [for index in aws_dynamodb_table.this.global_secondary_index : {
      name = index.name, hash = index.hash_key, range = index.range_key, projection = index.projection_type
    }] == [{ name = "owner-index", hash = "owner", range = "created_at", projection = "KEYS_ONLY" }]
    error_message = "The one index is the one the store queries, and holds nothing that a touch changes."
  }
}

run "tenant_index" {
  command = plan

  variables {
    tenant_index = true
  }

  assert {
    condition = { for index in aws_dynamodb_table.this.global_secondary_index : index.name => [
      index.hash_key, index.range_key, index.projection_type
      ] } == {
      owner-index  = ["owner", "created_at", "KEYS_ONLY"]
      tenant-index = ["tenant", "owner", "KEYS_ONLY"]
    }
    error_message = "The index of tenants is beside that of owners, and holds nothing that a touch changes."
  }
}

run "tenant_index_alone" {
  command = plan

  variables {
    owner_index  = false
    tenant_index = true
  }

  assert {
    condition = { for attribute in aws_dynamodb_table.this.attribute : attribute.name => attribute.type } == {
      session_id = "S", tenant = "S", owner = "S"
    }
    error_message = "Only the attributes of keys are declared."
  }
}

run "no_owner_index" {
  command = plan

  variables {
    owner_index = false
  }

  assert {
    condition     = length(aws_dynamodb_table.this.global_secondary_index) == 0
    error_message = "The index can be left out."
  }

  assert {
    condition     = [for attribute in aws_dynamodb_table.this.attribute : attribute.name] == ["session_id"]
    error_message = "Without the index its attributes must not be declared: DynamoDB refuses them."
  }
}

run "name_and_tags" {
  command = plan

  variables {
    name = "shop.sessions-prod_1"
    tags = { team = "shop" }
  }

  assert {
    condition     = aws_dynamodb_table.this.name == "shop.sessions-prod_1" && aws_dynamodb_table.this.tags.team == "shop"
    error_message = "The table carries the given name and tags."
  }

  assert {
    condition     = output.environment.SESSION_TABLE_NAME == "shop.sessions-prod_1"
    error_message = "The application is told the given name."
  }
}

run "unprotected" {
  command = plan

  variables {
    point_in_time_recovery = false
    deletion_protection    = false
  }

  assert {
    condition     = !aws_dynamodb_table.this.point_in_time_recovery[0].enabled && !aws_dynamodb_table.this.deletion_protection_enabled
    error_message = "Both protections can be turned off."
  }
}

run "what_else_dynamodb_offers" {
  command = plan

  variables {
    region                      = "eu-west-1"
    table_class                 = "STANDARD_INFREQUENT_ACCESS"
    stream                      = "KEYS_ONLY"
    point_in_time_recovery_days = 7
    on_demand_throughput        = { write = 2000 }
  }

  assert {
    condition = (
      aws_dynamodb_table.this.table_class == "STANDARD_INFREQUENT_ACCESS" &&
      aws_dynamodb_table.this.stream_enabled && aws_dynamodb_table.this.stream_view_type == "KEYS_ONLY" &&
      aws_dynamodb_table.this.point_in_time_recovery[0].recovery_period_in_days == 7
    )
    error_message = "Class, stream and days are those that were asked for."
  }

  assert {
    condition     = aws_dynamodb_table.this.on_demand_throughput[0].max_write_request_units == 2000
    error_message = "Writes are limited."
  }
}

run "own_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one"
  }

  assert {
    condition = (
      aws_dynamodb_table.this.server_side_encryption[0].enabled &&
      aws_dynamodb_table.this.server_side_encryption[0].kms_key_arn == "arn:aws:kms:eu-west-1:123456789012:key/one"
    )
    error_message = "The table is encrypted with the given key."
  }
}

run "autoscaling" {
  command = plan

  variables {
    tags = { team = "shop" }
    autoscaling = {
      read  = { min = 5, max = 50 }
      write = { min = 2, max = 20 }
    }
  }

  assert {
    condition = (
      aws_dynamodb_table.this.billing_mode == "PROVISIONED" &&
      aws_dynamodb_table.this.read_capacity == 5 && aws_dynamodb_table.this.write_capacity == 2
    )
    error_message = "The table starts provisioned, at the least it may have."
  }

  assert {
    condition = { for kind, target in aws_appautoscaling_target.this : kind => [target.scalable_dimension, target.min_capacity, target.max_capacity] } == {
      read  = ["dynamodb:table:ReadCapacityUnits", 5, 50]
      write = ["dynamodb:table:WriteCapacityUnits", 2, 20]
    }
    error_message = "Reads and writes scale, each within its own limits."
  }

  assert {
    condition     = alltrue([for target in aws_appautoscaling_target.this : target.resource_id == "table/sessions" && target.tags.team == "shop"])
    error_message = "What scales is this table, and it carries the tags."
  }

  assert {
    condition = {
      for kind, policy in aws_appautoscaling_policy.this : kind => [
        policy.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type,
        policy.target_tracking_scaling_policy_configuration[0].target_value,
        policy.policy_type,
      ]
      } == {
      read  = ["DynamoDBReadCapacityUtilization", 70, "TargetTrackingScaling"]
      write = ["DynamoDBWriteCapacityUtilization", 70, "TargetTrackingScaling"]
    }
    error_message = "Each side tracks its own use, at 70 percent by default."
  }

  assert {
    condition     = [for index in aws_dynamodb_table.this.global_secondary_index : [index.read_capacity, index.write_capacity]] == [[5, 20]]
    error_message = "The index can take as many writes as the table ever can: a smaller one would throttle the table."
  }
}

run "autoscaling_with_index_capacity" {
  command = plan

  variables {
    autoscaling = {
      read               = { min = 5, max = 50 }
      write              = { min = 2, max = 20 }
      target_utilization = 50
      index              = { read = 3, write = 4 }
    }
  }

  assert {
    condition     = [for index in aws_dynamodb_table.this.global_secondary_index : [index.read_capacity, index.write_capacity]] == [[3, 4]]
    error_message = "The index has the given capacity."
  }

  assert {
    condition     = alltrue([for policy in aws_appautoscaling_policy.this : policy.target_tracking_scaling_policy_configuration[0].target_value == 50])
    error_message = "Scaling aims at the given utilization."
  }
}

run "replicas" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/one"
    replicas = [
      { region_name = "us-east-1", kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/two" },
      { region_name = "ap-southeast-2", kms_key_arn = "arn:aws:kms:ap-southeast-2:123456789012:key/three" },
    ]
  }

  assert {
    condition     = aws_dynamodb_table.this.stream_enabled && aws_dynamodb_table.this.stream_view_type == "NEW_AND_OLD_IMAGES"
    error_message = "Replication needs the stream with both images."
  }

  assert {
    condition = { for replica in aws_dynamodb_table.this.replica : replica.region_name => replica.kms_key_arn } == {
      us-east-1      = "arn:aws:kms:us-east-1:123456789012:key/two"
      ap-southeast-2 = "arn:aws:kms:ap-southeast-2:123456789012:key/three"
    }
    error_message = "Each Region has its replica, under its own key."
  }

  assert {
    condition     = alltrue([for replica in aws_dynamodb_table.this.replica : replica.point_in_time_recovery && replica.propagate_tags])
    error_message = "Replicas are as recoverable and as tagged as the table."
  }
}
