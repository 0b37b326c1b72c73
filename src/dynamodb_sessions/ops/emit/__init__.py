"""What to deploy, as text: the table in five languages and the two IAM policies, all filled from its one definition.

The table is as `terraform/` makes it by default: as `table_schema.definition` says, with point-in-time recovery and
deletion protection. Nothing here talks to anybody.
"""

from dynamodb_sessions.ops.emit import aws_cli, cdk, cloudformation, sam, terraform

FORMS = {
    "terraform": terraform.render,
    "cloudformation": cloudformation.render,
    "sam": sam.render,
    "cdk": cdk.render,
    "cli": aws_cli.render,
}
