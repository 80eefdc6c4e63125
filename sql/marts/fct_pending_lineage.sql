-- How each pending movement ended: booked under its own id or another id, perhaps with another
-- amount; vanished; or still pending. Nothing is replaced; both rows stay in
-- fct_transaction_history.
--
-- A movement that vanished while pending is linked to a movement that was booked since: by the
-- reference of the payment scheme, else by account, amount, merchant and at most 14 days. If
-- several match, they are linked in the order of their days, each at most once, so that two
-- identical purchases stay two.
--
-- subject: money
-- grain:  one row per account id and transaction id that was ever shown as pending
-- key:    account_id, transaction_id
-- stored: by month, reading -1 to +1
-- apart:  account by account_id
-- zone:   instants are UTC, days are Riyadh days, month is the UTC month of the pending movement
-- columns:
--   account_key         The real account; see bridge_accounts.
--   account_id          Lean's id of the account that showed it.
--   transaction_id      Id under which it was pending.
--   currency            Currency of the amounts, ISO 4217.
--   month               UTC month of the pending movement, YYYY-MM.
--   movement_id         The pending movement; see fct_transaction_history.
--   fate                booked, pending or vanished.
--   booked_movement_id  The booked movement; null where no booked movement is known.
--   method              same_id, reference or amount_date_merchant; null where nothing is linked.
--   confidence          From 0 to 1: 1 by id, 0.95 by reference, 0.7 by amount, days and merchant,
--                       0.5 where the merchant is not known; null where nothing is linked.
--   pending_amount      Signed amount as last shown pending, in units of currency.
--   amount_delta        Booked less pending signed amount, in units of currency; null where nothing
--                       is linked or a sign is unknown.
--   lag_days            Riyadh days from the pending to the booked movement's day.
--   pending_date        Riyadh day of the movement while it was pending.
--   pending_seen_at     When the pull that first showed it pending was asked for, UTC.
--   ended_seen_at       When the pull that showed it booked, or no longer showed it, was asked for,
--                       UTC; null while it is pending.
-- sample: select fate, method, count(*) as movements from fct_pending_lineage group by all
with pending as (

    select
        account_id,
        account_key,
        transaction_id,
        min(movement_id) as movement_id,
        min(seen_from_at) as pending_seen_at,
        arg_max(
            {
                'amount': signed_amount,
                'currency': currency,
                'reference': transaction_reference,
                'merchant': matchable(merchant_name),
                'booking_date': booking_date,
                'month': month
            },
            (seen_from_at, version, month)
        ) as last_one
    from fct_transaction_history
    where status = 'PENDING' and change_kind <> 'vanished'
    group by account_id, account_key, transaction_id

),

booked as (

    select
        history.account_id,
        history.transaction_id,
        min(history.movement_id) as movement_id,
        min(history.seen_from_at) as booked_seen_at,
        arg_max(
            {
                'amount': history.signed_amount,
                'currency': history.currency,
                'reference': history.transaction_reference,
                'merchant': matchable(history.merchant_name),
                'booking_date': history.booking_date
            },
            (history.seen_from_at, history.version, history.month)
        ) as last_one
    from fct_transaction_history as history
    semi join pending on history.account_id = pending.account_id
    where history.status = 'BOOKED' and history.change_kind <> 'vanished'
    group by history.account_id, history.transaction_id

),

gone as (

    select
        account_id,
        transaction_id,
        max(seen_from_at) as gone_at
    from fct_transaction_history
    where change_kind = 'vanished' and status = 'PENDING' and seen_to_at is null
    group by account_id, transaction_id

),

ended as (

    select
        pending.*,
        booked.movement_id as booked_movement_id,
        booked.last_one as booked_one,
        booked.booked_seen_at,
        gone.gone_at
    from pending
    left join booked
        on
            pending.account_id = booked.account_id
            and pending.transaction_id = booked.transaction_id
    left join gone
        on
            pending.account_id = gone.account_id
            and pending.transaction_id = gone.transaction_id

),

-- Booked movements that were never pending.
fresh as (

    select booked.*
    from booked
    anti join pending
        on
            booked.account_id = pending.account_id
            and booked.transaction_id = pending.transaction_id

),

referenced as (

    select
        ended.account_id,
        ended.transaction_id,
        fresh.transaction_id as booked_transaction_id,
        row_number() over (
            partition by ended.account_id, ended.transaction_id
            order by fresh.last_one['booking_date'], fresh.transaction_id
        ) as booked_rank,
        row_number() over (
            partition by ended.account_id, fresh.transaction_id
            order by ended.last_one['booking_date'], ended.transaction_id
        ) as pending_rank
    from ended
    inner join fresh
        on
            ended.account_id = fresh.account_id
            and ended.last_one['reference'] = fresh.last_one['reference']
            and ended.last_one['currency'] = fresh.last_one['currency']
            and ended.pending_seen_at < fresh.booked_seen_at
    where
        ended.booked_movement_id is null
        and ended.gone_at is not null
        and sign(ended.last_one['amount']) = sign(fresh.last_one['amount'])

),

by_reference as (

    select
        account_id,
        transaction_id,
        booked_transaction_id
    from referenced
    where booked_rank = pending_rank

),

-- Both sides with equal account, amount and merchant are numbered by day; equal numbers are linked.
waiting as (

    select
        ended.*,
        row_number() over (
            partition by
                ended.account_id,
                ended.last_one['currency'],
                ended.last_one['amount'],
                ended.last_one['merchant']
            order by ended.last_one['booking_date'], ended.transaction_id
        ) as sequence_no
    from ended
    anti join by_reference
        on
            ended.account_id = by_reference.account_id
            and ended.transaction_id = by_reference.transaction_id
    where ended.booked_movement_id is null and ended.gone_at is not null

),

free as (

    select
        fresh.*,
        row_number() over (
            partition by
                fresh.account_id,
                fresh.last_one['currency'],
                fresh.last_one['amount'],
                fresh.last_one['merchant']
            order by fresh.last_one['booking_date'], fresh.transaction_id
        ) as sequence_no
    from fresh
    anti join by_reference
        on
            fresh.account_id = by_reference.account_id
            and fresh.transaction_id = by_reference.booked_transaction_id
    semi join waiting
        on
            fresh.account_id = waiting.account_id
            and fresh.last_one['amount'] = waiting.last_one['amount']
            and fresh.booked_seen_at > waiting.pending_seen_at
            and fresh.last_one['booking_date'] - waiting.last_one['booking_date'] between 0 and 14

),

links as (

    select
        by_reference.account_id,
        by_reference.transaction_id,
        by_reference.booked_transaction_id,
        'reference' as method,
        0.95 as confidence
    from by_reference

    union all

    select
        waiting.account_id,
        waiting.transaction_id,
        free.transaction_id as booked_transaction_id,
        'amount_date_merchant' as method,
        if(waiting.last_one['merchant'] is null, 0.5, 0.7) as confidence
    from waiting
    inner join free
        on
            waiting.account_id = free.account_id
            and waiting.last_one['currency'] = free.last_one['currency']
            and waiting.last_one['amount'] = free.last_one['amount']
            and waiting.last_one['merchant'] is not distinct from free.last_one['merchant']
            and waiting.sequence_no = free.sequence_no
            and waiting.pending_seen_at < free.booked_seen_at
            and free.last_one['booking_date'] - waiting.last_one['booking_date'] between 0 and 14

),

linked as (

    select
        ended.account_id,
        ended.account_key,
        ended.transaction_id,
        ended.movement_id,
        ended.last_one,
        ended.pending_seen_at,
        ended.gone_at,
        coalesce(ended.booked_movement_id, fresh.movement_id) as booked_movement_id,
        coalesce(ended.booked_one, fresh.last_one) as booked_one,
        coalesce(ended.booked_seen_at, fresh.booked_seen_at) as booked_seen_at,
        if(ended.booked_movement_id is not null, 'same_id', links.method) as method,
        if(ended.booked_movement_id is not null, 1, links.confidence)::decimal(3, 2) as confidence
    from ended
    left join links
        on
            ended.account_id = links.account_id
            and ended.transaction_id = links.transaction_id
    left join fresh
        on
            links.account_id = fresh.account_id
            and links.booked_transaction_id = fresh.transaction_id

)

select
    -- ids
    movement_id,
    account_key,
    account_id,
    transaction_id,
    booked_movement_id,

    -- money
    last_one['currency'] as currency,
    last_one['amount'] as pending_amount,
    booked_one['amount'] - last_one['amount'] as amount_delta,

    -- attributes
    case
        when booked_movement_id is not null then 'booked'
        when gone_at is not null then 'vanished'
        else 'pending'
    end as fate,
    method,
    confidence,
    booked_one['booking_date'] - last_one['booking_date'] as lag_days,

    -- times
    last_one['booking_date'] as pending_date,
    pending_seen_at,
    coalesce(booked_seen_at, gone_at) as ended_seen_at,
    last_one['month'] as month
from linked
