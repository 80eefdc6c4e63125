-- Versions of each movement. A version begins with the pull that first showed it. It ends with the
-- pull that showed the movement differently, or that covers its day and no longer shows it.
--
-- transactions_as_of(instant) gives the versions that counted at an instant, each account once.
--
-- subject: money
-- grain:  one row per account id, transaction id, UTC month and version
-- key:    account_id, transaction_id, month, version
-- stored: by month
-- apart:  account by account_id
-- counts: every status; versions differ in a column that is here, so a new balance after a movement
--         or a new text alone makes no version; a movement that moves to another month vanishes
--         from its month and appears in the other month
-- zone:   instants are UTC, booking_date is Riyadh's, month is the UTC month of placed_at
-- columns:
--   account_key             The real account; see bridge_accounts.
--   movement_id             Account and transaction id, as in fct_transactions.
--   version                 Number of the version of a movement in its month, from 1.
--   change_kind             appeared, changed or vanished; a row that vanished shows what it was.
--   is_late                 Whether an earlier pull of its account id covered its day without it.
--   seen_from_at            Since when the version is known: when the pull that brought it was
--                           asked for, UTC.
--   seen_to_at              When the pull that ended it was asked for, UTC, exclusive; null while
--                           it counts.
--   account_id              Lean's id of the account that showed it.
--   transaction_id          The bank's or Lean's id; unique within the account, not beyond.
--   currency                Currency of the amounts, ISO 4217.
--   signed_amount           The amount with its sign, money in above zero, in units of currency;
--                           null where the sign is unknown.
--   amount                  The amount without its sign, in units of currency.
--   charge_amount           Charge for the movement, in the charge's own currency.
--   charge_vat_amount       VAT on the charge, in the charge's own currency.
--   status                  State; only BOOKED money is counted.
--   transaction_mutability  Whether the bank may still change it.
--   transaction_type        Channel.
--   sub_transaction_type    What happened.
--   transaction_reference   Reference of the payment scheme.
--   merchant_name           Merchant.
--   merchant_category_code  Kind of merchant, ISO 18245 behind the letters CC.
--   placed_at               When it counts: booking, else value, else transaction instant, UTC.
--   booked_at               When it was posted, UTC.
--   value_at                When the money counts for interest, UTC.
--   booking_date            Riyadh day of placed_at.
--   month                   UTC month of placed_at, YYYY-MM.
--   pull_id                 The pull that brought it; see pulls.
--   told_at                 When the bank was asked for what the pull brought, UTC.
-- sample: select change_kind, count(*) as versions from fct_transaction_history group by all
with reads as (

    select
        pulls.pull_id,
        pulls.parent_id as account_id,
        bridge_accounts.account_key,
        pulls.month,
        pulls.claimed_from,
        pulls.claimed_to,
        row_number() over by_age as turn,
        max(coalesce(pulls.known_at, pulls.asked_at)) over by_age as seen_at,
        coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at) as told_at,
        count(*) over (partition by pulls.parent_id, pulls.month) as turns,
        min(pulls.claimed_from) over earlier as covered_from,
        max(pulls.claimed_to) over earlier as covered_to
    from pulls
    inner join bridge_accounts on pulls.parent_id = bridge_accounts.account_id
    where pulls.stream = 'transactions' and pulls.outcome = 'COMMITTED'
    window by_age as (
        partition by pulls.parent_id, pulls.month
        order by
            coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at),
            coalesce(pulls.known_at, pulls.asked_at),
            coalesce(pulls.generation, 0),
            pull_tie(pulls.generation, pulls.pull_id)
        rows unbounded preceding
    ),
    earlier as (
        partition by pulls.parent_id, pulls.month
        order by
            coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at),
            coalesce(pulls.known_at, pulls.asked_at),
            coalesce(pulls.generation, 0),
            pull_tie(pulls.generation, pulls.pull_id)
        rows between unbounded preceding and 1 preceding
    )

),

shown as not materialized (

    select
        history.account_id,
        reads.account_key,
        history.transaction_id,
        history.month,
        history.status,
        signed(history.amount, history.credit_debit_indicator) as signed_amount,
        history.amount,
        currency_code(history.currency) as currency,
        coalesce(history.booked_at, history.value_at, history.transacted_at) as placed_at,
        history.booked_at,
        history.value_at,
        history.transaction_mutability,
        history.transaction_type,
        history.sub_transaction_type,
        history.transaction_reference,
        history.merchant_name,
        history.merchant_category_code,
        history.charge_amount,
        history.charge_vat_amount,
        history.pull_id,
        reads.turn,
        reads.turns,
        reads.seen_at,
        reads.told_at,
        reads.covered_from,
        reads.covered_to,
        hash(
            history.status, signed_amount, history.amount, currency_code(history.currency),
            history.booked_at, history.value_at, placed_at, history.transaction_mutability,
            history.transaction_type, history.sub_transaction_type,
            history.transaction_reference, history.merchant_name,
            history.merchant_category_code, history.charge_amount, history.charge_vat_amount
        ) as content
    from transactions_history as history
    inner join reads on history.pull_id = reads.pull_id and history.month = reads.month

),

-- Most movements of a month that was read again look the same in every pull. Hashes show which: an
-- open month is read every night, and all columns of all its nights would not fit in memory.
steady as (

    select
        account_id,
        transaction_id,
        month
    from shown
    where turns > 1
    group by account_id, transaction_id, month
    having
        count(*) = max(turns)
        and max(turn) = max(turns)
        and min(content) = max(content)

),

-- A single row of these is enough, as of movements that were read once. The rest are compared.
wanted as (

    select
        shown.*,
        shown.turns = 1 or steady.account_id is not null as is_steady
    from shown
    left join steady
        on
            shown.account_id = steady.account_id
            and shown.transaction_id = steady.transaction_id
            and shown.month = steady.month
    where shown.turn = 1 or steady.account_id is null

),

compared as (

    select * exclude (is_steady)
    from wanted
    where not is_steady

),

followed as (

    select
        *,
        lag(content) over by_turn as content_before,
        lag(turn) over by_turn as turn_before,
        lead(turn) over by_turn as turn_after
    from compared
    window by_turn as (
        partition by account_id, transaction_id, month
        order by turn
    )

),

-- If the next pull does not show a movement, the first later pull that covers its day ends it.
ended as (

    select
        followed.account_id,
        followed.transaction_id,
        followed.month,
        followed.turn as last_turn,
        arg_min(
            {
                'turn': reads.turn,
                'seen_at': reads.seen_at,
                'told_at': reads.told_at,
                'pull_id': reads.pull_id
            },
            reads.turn
        ) as ending
    from followed
    inner join reads
        on
            followed.account_id = reads.account_id
            and followed.month = reads.month
            and followed.turn < reads.turn
            and reads.turn < coalesce(followed.turn_after, followed.turns + 1)
            and utc_day(followed.placed_at)
            between reads.claimed_from and reads.claimed_to
    where followed.turn < followed.turns and followed.turn_after is distinct from followed.turn + 1
    group by
        followed.account_id, followed.transaction_id, followed.month, followed.turn

),

events as (

    select
        followed.* exclude (content, content_before, turn_before, turn_after, turns),  -- noqa: RF02
        case
            when followed.turn_before is null or ended.ending is not null then 'appeared'
            else 'changed'
        end as change_kind
    from followed
    left join ended
        on
            followed.account_id = ended.account_id
            and followed.transaction_id = ended.transaction_id
            and followed.month = ended.month
            and followed.turn_before = ended.last_turn
    where
        followed.turn_before is null
        or followed.content <> followed.content_before
        or ended.ending is not null

    union all by name

    select
        followed.* exclude (  -- noqa: RF02
            content, content_before, turn_before, turn_after, turns,  -- noqa: RF02
            turn, seen_at, told_at, pull_id
        ),
        ended.ending['turn'] as turn,
        ended.ending['seen_at'] as seen_at,
        ended.ending['told_at'] as told_at,
        ended.ending['pull_id'] as pull_id,
        'vanished' as change_kind
    from followed
    inner join ended
        on
            followed.account_id = ended.account_id
            and followed.transaction_id = ended.transaction_id
            and followed.month = ended.month
            and followed.turn = ended.last_turn

),

versions as (

    select
        * exclude (turn, turns, seen_at, content, is_steady),
        1 as version,
        'appeared' as change_kind,
        seen_at as seen_from_at,
        null as seen_to_at
    from wanted
    where is_steady

    union all by name

    select
        * exclude (turn, seen_at),
        row_number() over by_turn as version,
        seen_at as seen_from_at,
        lead(seen_at) over by_turn as seen_to_at
    from events
    window by_turn as (
        partition by account_id, transaction_id, month
        order by turn
    )

)

select
    -- ids
    versions.account_key || ':' || versions.transaction_id as movement_id,
    versions.account_key,
    versions.account_id,
    versions.transaction_id,
    versions.version,

    -- money
    versions.currency,
    versions.signed_amount,
    versions.amount,
    versions.charge_amount,
    versions.charge_vat_amount,

    -- attributes
    versions.change_kind,
    versions.status,
    versions.transaction_mutability,
    versions.transaction_type,
    versions.sub_transaction_type,
    versions.transaction_reference,
    versions.merchant_name,
    versions.merchant_category_code,

    -- flags
    versions.version = 1
    and coalesce(
        utc_day(versions.placed_at)
        between versions.covered_from and versions.covered_to,
        false
    ) as is_late,

    -- times
    versions.placed_at,
    versions.booked_at,
    versions.value_at,
    riyadh_date(versions.placed_at) as booking_date,
    versions.seen_from_at,
    versions.seen_to_at,
    versions.told_at,
    versions.month,

    -- trace
    versions.pull_id
from versions
