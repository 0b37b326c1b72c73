"""What AWS says when it denies access: to whom, to do what, on what, and which kind of policy stands in the way.

Each kind has another fix, and often another person who can make it. Source: "Troubleshoot access denied error
messages" in the IAM user guide, which lists the wordings. What is returned names resources by the end of their ARN.
"""

import re
from dataclasses import dataclass

_SENTENCE = re.compile(
    r"(?:User: (?P<who>\S+) )?is not authorized to perform: (?P<action>[\w-]+:\w+)"
    r"(?: on resource: (?P<resource>[^\s,]+))?(?P<why>.*)"
)

_FIXES = {
    "identity-based policy": "allow the role {verb} on {on}: `dynamodb-sessions emit iam` prints the policy",
    "resource-based policy": "let the resource-based policy of {on} allow the role {verb}",
    "service control policy": "ask who looks after the AWS organization: no policy of this account can allow it",
    "resource control policy": "ask who looks after the AWS organization: no policy of this account can allow it",
    "vpc endpoint policy": "let the policy of the VPC endpoint, through which the calls go, allow {verb} on {on}",
    "permissions boundary": "let the permissions boundary of the role allow {verb} on {on}, too",
    "session policy": "let the policy that was passed when the role was assumed allow {verb} on {on}, too",
    "role trust policy": "let the trust policy of {on} allow {verb}",
}
"""By the kind of policy, in small letters, what is to be done about it."""

_NAMES = {"vpc endpoint policy": "VPC endpoint policy"}
_SPELLINGS = {"sessions policy": "session policy"}
"""As the page has it in one place."""

_KMS = "KMS key access denied"
"""How DynamoDB begins if KMS has refused it the table's key. Source: github.com/aws/aws-cdk/issues/10010."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One denial, as AWS words it; empty: it does not say."""

    who: str = ""
    """An ARN, as are `resource` and no other."""
    action: str = ""
    resource: str = ""
    policy: str = ""
    """The kind of policy, in small letters: "identity-based policy"."""
    is_explicit: bool = False
    """Whether a policy denies it, rather than none allowing it."""

    @property
    def is_of_key(self) -> bool:
        """Whether it is the table's KMS key that may not be used."""
        return self.action.startswith("kms:")

    @property
    def is_of_role(self) -> bool:
        """Whether what is missing is a permission in the policies of the role itself."""
        return self.policy in {"", "identity-based policy"} and not self.is_explicit and not self._crosses_accounts

    @property
    def _crosses_accounts(self) -> bool:
        ours, theirs = account_of(self.who), account_of(self.resource)
        return bool(ours and theirs and ours != theirs)

    @property
    def _on(self) -> str:
        name = short(self.resource) or ("the table's key" if self.is_of_key else "the table")
        return f"the KMS key {name}" if self.is_of_key and self.resource else name

    @property
    def cause(self) -> str:
        """Return what happened, in words."""
        who = f" to {short(self.who)}" if self.who else ""
        of_table = f" (account {account_of(self.resource)})" if self._crosses_accounts else ""
        what = f"{self.action} on {self._on}{of_table}"
        policy = _NAMES.get(self.policy, self.policy)
        if policy and self.is_explicit:
            return f"{'an' if policy[0] in 'aeiou' else 'a'} {policy} denies {what}{who}"
        if policy:
            return f"no {policy} allows {what}{who}"
        return f"{what} is not allowed{who}"

    @property
    def fix(self) -> str:
        """Return what lets it be done, in words."""
        verb = self.action if self.is_of_key else self.action.rpartition(":")[2]
        if self._crosses_accounts and self.policy in {"", "resource-based policy"} and not self.is_explicit:
            return (
                f"{self._on} is in another account: there, let its resource-based policy allow {short(self.who)} "
                f"{verb}, and in this account the role's own policy"
            )
        if self.is_of_key and self.policy == "resource-based policy" and not self.is_explicit:
            return f"let the key policy of {self._on} allow the role {verb}, or leave it to the account's policies"
        if self.is_of_role and self.is_of_key:
            key = self.resource or "ARN"
            return f"allow the role {verb} on it: `dynamodb-sessions emit iam --kms-key {key}` prints the statement"
        fix = _FIXES[self.policy or "identity-based policy"].format(verb=verb, on=self._on)
        if self.is_explicit and self.policy not in {"service control policy", "resource control policy"}:
            return f"take {verb} on {self._on} out of what that policy denies"
        return fix


def denial(message: str) -> Denial | None:
    """Return what a text of AWS's says about a denial; None: nothing."""
    text = " ".join(message.split())
    found = _SENTENCE.search(text)
    if found is None:
        return Denial(action="kms:Decrypt") if _KMS in text else None
    why = found["why"].lower()
    for spelling, usual in _SPELLINGS.items():
        why = why.replace(spelling, usual)
    # "In a VPC endpoint policy transitively through a service control policy": the last one is the cause.
    policy = max(_FIXES, key=why.rfind)
    return Denial(
        found["who"] or "",
        found["action"],
        (found["resource"] or "").rstrip("."),
        policy if policy in why else "",
        "explicit deny" in why,
    )


def short(arn: str) -> str:
    """Return the end of an ARN, by which people know it: "table/sessions", "role app". Without who has assumed it."""
    name = arn.split(":", 5)[-1]
    kind, _, rest = name.partition("/")
    if kind == "assumed-role":
        return f"the role {rest.partition('/')[0]}"
    if kind in {"role", "user"}:
        return f"the {kind} {rest.rpartition('/')[2]}"
    if kind == "key":
        return rest
    return name


def account_of(arn: str) -> str:
    """Return the number of an ARN's account; empty: it has none."""
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == len(("arn", "partition", "service", "region", "account", "name")) else ""
