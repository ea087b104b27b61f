"""What the `keys` commands say to people about changes, dates and verifiers.

Texts only: nothing here decides or reads. Every date comes with its distance from now, and every
refusal with what to do instead.
"""

import textwrap
from collections.abc import Sequence

from token_server.cli.formats import duration_text, instant_text, relative_text
from token_server.cli.key_picture import short_kid
from token_server.config_values import format_duration
from token_server.core.key_changes import Step, StepKind, Violation
from token_server.core.key_forecast import Event, What
from token_server.core.key_policy import KeyPolicy
from token_server.core.key_verifiers import Effect
from token_server.crypto.opening import POLICY_SETTINGS
from token_server.services.key_emergency import EmergencyReport
from token_server.services.key_plan import Basis
from token_server.services.key_rotation import ChangeReport, Switch

_FEW_EVENTS = 6
_LEAST_ROOM = 30  # for the reason of an event beside it
_INDENT = 27  # of a reason below its event
_HAPPENS = {
    What.MADE: "is made and published",
    What.KNOWN: "could sign",
    What.SCHEDULED: "gets its date",
    What.SIGNS: "signs",
    What.ERASED: "private half erased",
    What.LEAVES: "leaves the JWKS",
}
_WORDS = {
    StepKind.MADE: "is made and waits as next key",
    StepKind.ACTIVATED: "signs from now on",
    StepKind.CANCELLED: "has no date any more",
    StepKind.ROLLED_BACK: "signs again",
    StepKind.COMPROMISED: "is dropped",
}
_TITLES = {
    "rotate": "A rotation has begun",
    "promote": "Promoted: another key signs",
    "rollback": "Rolled back",
    "compromise": "Dropped",
}


def change_text(report: ChangeReport) -> str:
    """What was done, or would be, and what comes next."""
    lines = []
    if report.reason is not None:
        lines.append(f"Nothing to do: {report.reason}.")
    elif not report.refused:
        title = _TITLES[report.action]
        if report.action == "rotate" and report.switch is not None:
            title = "Rotated at once: another key signs"
        opening = f"{title} (generation {report.generation})."
        lines.append(
            "Dry run: nothing has changed. This would be done:" if report.dry_run else opening
        )
        lines += [f"  {_step_text(step, report.now)}" for step in report.steps]
    lines += [
        f"  Forced, although {rule.invariant} forbids it: {rule.why}" for rule in report.forced
    ]
    if report.switch is not None:
        lines += ["", *_switch_lines(report.switch, report)]
    elif report.dropped is not None:
        lines += ["", "It did not sign, so nothing changes for tokens that are issued from now on."]
    lines += ["", *_coming(report)]
    return "\n".join(lines)


def refusal_text(report: ChangeReport) -> str:
    """Which rules stand in the way, why, from when not, and what to do."""
    lines = [_rule_text(rule, report.now) for rule in report.refused]
    if report.can_be_forced:
        lines.append("  --force does it all the same, and the audit trail says so.")
    return "\n".join(lines)


def _rule_text(rule: Violation, now: int) -> str:
    text = f"Refused by {rule.invariant}: {rule.why}."
    if rule.allowed_at is None:
        return text
    return f"{text}\n  Allowed from {_when(rule.allowed_at, now)}."


def _step_text(step: Step, now: int) -> str:
    kid = step.kid or "a new key"
    return f"{kid}  {_step_words(step, now)}: {step.why}"


def _step_words(step: Step, now: int) -> str:
    if step.kind is StepKind.SCHEDULED and step.at is not None:
        return f"signs from {_when(step.at, now)}"
    if step.kind is StepKind.MADE and step.at is not None:
        return "is made and signs now"
    return _WORDS.get(step.kind, step.kind.replace("_", " "))


def _when(at: int, now: int) -> str:
    return f"{instant_text(at)} ({relative_text(at, now)})"


def emergency_text(report: EmergencyReport) -> str:
    """What `compromise --all` did, or would do, and what is left to the operator."""
    if report.dry_run:
        lines = ["Dry run: nothing has changed. This would be done:"]
    else:
        lines = [f"Every key was dropped (generation {report.generation})."]
    lines += [f"  {_step_text(step, report.now)}" for step in report.steps]
    lines += [
        f"  master key version {report.master_version} takes the place of all others",
        f"  {report.sessions_ended} sessions end: people log in anew, services ask for new tokens",
        "",
        "The key that signs then was never published. What that means for those who verify:",
        *_effect_lines(report.effects, has_dropped=True),
    ]
    if report.todo:
        lines += ["", "What is left to you:", *(f"  - {step}" for step in report.todo)]
    return "\n".join(lines)


def _switch_lines(switch: Switch, report: ChangeReport) -> list[str]:
    """What a switch before its time costs, by kind of verifier."""
    verb = "would sign" if report.dry_run else "signs"
    known = f"has been published for {duration_text(switch.known_s)}"
    subject = f"The key that {verb} now {known if switch.known_s else 'was never published'}"
    failing = [effect for effect in switch.effects if effect.refuses_for_s or effect.first_fails]
    if not failing and report.dropped is None:
        return [f"{subject}: no verifier refuses its tokens."]
    return [
        f"{subject}. What that means for those who verify:",
        *_effect_lines(switch.effects, has_dropped=report.dropped is not None),
    ]


def _effect_lines(effects: Sequence[Effect], *, has_dropped: bool) -> list[str]:
    rows = [("VERIFIER (with its defaults)", "REFUSES THE NEW KEY'S TOKENS", "TRUSTS DROPPED KEYS")]
    rows += [(effect.verifier, _refusal(effect), _trust(effect)) for effect in effects]
    lines = [
        f"  {name:<36}  {refuses:<28}  {trusts if has_dropped else ''}".rstrip()
        for name, refuses, trusts in rows
    ]
    return [*lines, "A verifier that is restarted fetches the keys anew, and knows them at once."]


def _refusal(effect: Effect) -> str:
    if effect.refuses_for_s:
        return f"for up to {duration_text(effect.refuses_for_s)}"
    return "once per process" if effect.first_fails else "no"


def _trust(effect: Effect) -> str:
    return f"for up to {duration_text(effect.trusts_dropped_for_s)}"


def _coming(report: ChangeReport) -> list[str]:
    lines = ["What comes next (`token-server keys plan` shows it all):"]
    lines += event_lines(report.events[:_FEW_EVENTS], report.now)
    if not report.basis.is_served:
        lines.append("No server runs: the dates hold if one starts now.")
    return [*lines, basis_text(report.basis)]


def event_lines(events: Sequence[Event], now: int, width: int | None = None) -> list[str]:
    """One line per event; `~` before a date that follows from the settings and may still move."""
    lines = []
    for event in events:
        mark = " " if event.is_firm else "~"
        begin = (
            f" {mark}{instant_text(event.at)}  {relative_text(event.at, now):<14}  "
            f"{short_kid(event.kid):<8}  {_HAPPENS[event.what]:<21}  "
        )
        if width is None or width >= len(begin) + len(event.why):
            lines.append(begin + event.why)
        elif width >= len(begin) + _LEAST_ROOM:
            first, *rest = textwrap.wrap(event.why, width - len(begin))
            lines += [begin + first, *(" " * len(begin) + line for line in rest)]
        else:
            lines += [begin.rstrip(), " " * _INDENT + event.why]
    return lines


def basis_text(basis: Basis) -> str:
    """Whose settings the dates follow from."""
    whose = "of the running server" if basis.is_served else "of the server that ran last"
    if basis.source == "command":
        whose = "of this command, since no server has ever served these keys"
    names = {field: name.upper() for name, field in POLICY_SETTINGS.items()}
    stated = ", ".join(names.get(field, field.upper()) for field in basis.stated)
    but = f"; but {stated} as stated here" if stated and basis.source == "serving" else ""
    return f"Settings {whose}{but}: {policy_text(basis.policy)}."


def policy_text(policy: KeyPolicy) -> str:
    shown = ("key_lead", "key_rotate_every", "access_token_ttl", "jwks_max_age")
    return ", ".join(
        f"{name.upper()} {format_duration(getattr(policy, POLICY_SETTINGS[name]))}"
        for name in shown
    )
