"""What is true of a world, for oracles: which movements count, with sign and account."""

import datetime as dt
import re
import unicodedata
from collections import defaultdict

from known import DAY, keyed_hash

_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
REVERSALS = {"REVERSAL", "WITHDRAWAL_REVERSAL", "DEPOSIT_REVERSAL"}


def number(text):
    """An account number as it is hashed: capitals, digits and the stars of a mask, or None."""
    folded = unicodedata.normalize("NFKC", text or "").upper()
    found = "".join(
        str(unicodedata.digit(sign)) if sign.isdigit() else sign
        for sign in folded
        if sign.isalnum() or sign == "*"
    )
    found = re.sub("^IBAN", "", found)
    return found if re.search("[1-9]", found) else None


def own_numbers(world):
    """Every number of each real account."""
    keys, found = account_keys(world), defaultdict(set)
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            found[keys[account_id]] |= {number(o["identification"]) for o in row["identifications"]}
    return found


def counterparty(row, own):
    """Side and number of the party of a movement that is not the account itself."""
    parties = {
        side: (row[f"{side}_account_identification"], row[f"{side}_account_name"])
        for side in ("creditor", "debtor")
    }
    told = {
        side: number(identification)
        for side, (identification, name) in parties.items()
        if (number(identification) or name) and number(identification) not in own
    }
    ours = "debtor" if row["credit_debit_indicator"] == "DEBIT" else "creditor"
    for side in sorted(told, key=lambda side: side == ours):
        return side, told[side]
    return "unknown", None


def account_keys(world):
    """The real account of every account id that was ever true."""
    found = {}
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            ibans = [
                number(one["identification"])
                for one in row["identifications"]
                if _IBAN.fullmatch(number(one["identification"]) or "")
            ]
            named = min(ibans) if ibans else f"{row['entity_id']}/{account_id}"
            found[account_id] = keyed_hash(named)
    return found


def depths(world):
    """The earliest UTC day that a refresh ever told the bank to offer, by account id."""
    found = {}
    for day in world.days:
        for refresh in day["refreshes"].values():
            for one in refresh["account_statuses"] or ():
                start = one["transactions_from_date"]
                if start is not None:
                    found[one["account_id"]] = min(found.get(one["account_id"], start), start)
    return found


def placed_at(row):
    """When a movement counts."""
    return row["booked_at"] or row["value_at"] or row["transacted_at"]


def signed(amount, indicator):
    """An amount with its sign, or None."""
    if indicator == "DEBIT":
        return -abs(amount)
    return amount if indicator == "CREDIT" and amount >= 0 else None


def claims_of(world):
    """Days of accounts that reads speak for, each with how new the read is, to be compared."""
    for one in world.rows("""
        select
            claims.parent_id, claims.claimed_from, claims.claimed_to,
            pulls.refreshed_at, pulls.asked_at
        from claims inner join pulls using (pull_id) where claims.stream = 'transactions'
    """):
        yield one, (one["refreshed_at"], one["asked_at"], one["parent_id"])


def movements(world):
    """Every movement by id: for each day of a real account the newest read of it that there is.

    A later day's truth covers all days that it may be read for; what only the earlier day could
    read stays. The first and last day that a read speaks for are told by the ledger, which other
    tests hold to the consents.
    """
    keys = account_keys(world)
    offered = depths(world)
    views = defaultdict(list)
    for one, known_at in claims_of(world):
        views[keys[one["parent_id"]]].append(
            (one["claimed_from"], one["claimed_to"], known_at, one["parent_id"])
        )
    found = {}
    read_last = {account_id for account_id, _ in world.days[-1]["transactions"]}
    for day in world.days:
        for (account_id, transaction_id), row in day["transactions"].items():
            utc_day = placed_at(row).astimezone(dt.UTC).date()
            claims = [
                (utc_day >= offered.get(owner, utc_day), known_at, owner)
                for start, end, known_at, owner in views[keys[account_id]]
                if start <= utc_day <= end
            ]
            if claims and max(claims)[-1] == account_id:
                is_newest = day is world.days[-1] or account_id in world.old_account_ids
                if is_newest or account_id not in read_last:
                    found[f"{keys[account_id]}:{transaction_id}"] = row
    return found


def whole_days(world):
    """Riyadh days that are known from midnight to midnight, by account."""
    keys = account_keys(world)
    offered = depths(world)
    ends = defaultdict(dict)
    for one, newness in claims_of(world):
        days = ends[keys[one["parent_id"]]]
        day = max(one["claimed_from"], offered.get(one["parent_id"], one["claimed_from"]))
        while day <= one["claimed_to"]:
            end = min(midnight(day + DAY), one["refreshed_at"])
            days[day] = max(days.get(day, (newness, end)), (newness, end))
            day += DAY
    found = defaultdict(set)
    for key, days in ends.items():
        for day, (_, end) in days.items():
            before = days.get(day - DAY)
            is_joined = before is not None and before[1] == midnight(day)
            if is_joined and end >= midnight(day) + dt.timedelta(hours=21):
                found[key].add(day)
    return found


def midnight(day):
    """The start of a UTC day."""
    return dt.datetime.combine(day, dt.time(), dt.UTC)
