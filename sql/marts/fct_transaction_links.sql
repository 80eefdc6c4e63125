-- Pairs of movements that belong together: the two legs of a transfer between accounts of a
-- customer, and a movement with its reversal. A movement has at most one partner of each kind; if
-- several are possible, the likeliest is taken.
--
-- subject: money
-- grain:  one row per movement and kind of link
-- key:    movement_id, link_kind
-- stored: by month, reading -1 to +1
-- apart:  customer by account_key
-- counts: booked movements. Legs lie up to 3 days apart, with the same amount and currency. They
--         are recognised by their reference, by the other side's account number, or as a repayment
--         and money in on a card of the same customer. Reversals lie up to 14 days after a movement
--         of the same account, amount and currency. They are recognised by reference or merchant
-- columns:
--   movement_id         The movement; see fct_transactions.
--   account_key         The real account of the movement.
--   link_kind           internal_transfer, reversal (it takes something back) or reversed.
--   linked_movement_id  The other movement.
--   pair_id             The smaller of both ids, the same on both rows of a pair.
--   method              How the pair was recognised: reference, counterparty, repayment (of a card)
--                       or merchant.
--   confidence          From 0 to 1: 1 by reference, 0.95 by account number, 0.8 by merchant
--                       or repayment.
--   lag_days            Riyadh days from the earlier movement to the later movement.
--   month               UTC month of the movement, YYYY-MM.
-- cleared: method (one of four words), confidence (a number for each of them)
-- sample: select link_kind, method, count(*) as movements from fct_transaction_links group by all
with owners as (

    select distinct
        account_key,
        customer_id
    from bridge_accounts

),

accounts as (

    select
        bridge_accounts.account_id,
        bridge_accounts.account_key,
        coalesce(numbers.is_card, false) as is_card,
        -- Only a customer with two accounts can transfer between own accounts.
        bridge_accounts.account_key in (
            select owners.account_key
            from owners
            where owners.customer_id in (
                select owned.customer_id
                from owners as owned
                group by owned.customer_id
                having count(*) > 1
            )
        ) as has_siblings
    from bridge_accounts
    left join int_account_numbers as numbers
        on bridge_accounts.account_key = numbers.account_key

),

booked as not materialized (

    select
        movements.account_id,
        movements.pull_id,
        movements.transaction_id,
        accounts.account_key,
        movements.month,
        movements.signed_amount,
        movements.currency,
        movements.placed_at,
        movements.booking_date,
        movements.transaction_reference,
        movements.merchant_name,
        takes_back(movements.sub_transaction_type) as is_reversal,
        accounts.has_siblings
        and (
            movements.transaction_type in (
                'SAME_BANK_TRANSFER', 'LOCAL_BANK_TRANSFER', 'INTERNATIONAL_TRANSFER'
            )
            or coalesce(movements.debtor_number, movements.creditor_number) is not null
            or movements.sub_transaction_type = 'REPAYMENTS'
            or (accounts.is_card and movements.signed_amount > 0)
        ) as is_transfer,
        coalesce(movements.sub_transaction_type = 'REPAYMENTS', false) as is_repayment,
        accounts.is_card
        and movements.signed_amount > 0
        and coalesce(movements.sub_transaction_type, '') <> 'REFUND' as is_paid_card,
        movements.transaction_type in (
            'SAME_BANK_TRANSFER', 'LOCAL_BANK_TRANSFER', 'INTERNATIONAL_TRANSFER'
        ) as is_transfer_kind,
        movements.credit_debit_indicator,
        movements.debtor_number,
        movements.debtor_account_name,
        movements.creditor_number,
        movements.creditor_account_name
    from stg_movements as movements
    inner join accounts on movements.account_id = accounts.account_id
    where movements.is_booked and movements.signed_amount <> 0

),

undone as (

    select distinct
        account_key,
        currency,
        -signed_amount as signed_amount
    from booked
    where is_reversal

),

-- Nearly all movements are neither transfer nor reversal: they are left out before costly steps.
wanted as (

    select booked.*
    from booked
    left join undone
        on
            booked.account_key = undone.account_key
            and booked.currency = undone.currency
            and booked.signed_amount = undone.signed_amount
    where booked.is_transfer or booked.is_reversal or undone.account_key is not null

),

movements as (

    select
        claims.account_key || ':' || wanted.transaction_id as movement_id,
        wanted.* exclude (account_id, pull_id, transaction_id)  -- noqa: RF02
    from wanted
    inner join int_covering_pulls as claims
        on
            wanted.account_id = claims.account_id
            and wanted.pull_id = claims.pull_id
            and utc_day(wanted.placed_at)
            between claims.claimed_from and claims.claimed_to

),

sided as (

    select
        movements.*,
        case counterparty_side(
            movements.credit_debit_indicator,
            movements.debtor_number,
            movements.debtor_account_name,
            owns_number(
                movements.debtor_number,
                numbers.own_keys, numbers.own_endings, numbers.is_numbered
            ),
            movements.creditor_number,
            movements.creditor_account_name,
            owns_number(
                movements.creditor_number,
                numbers.own_keys, numbers.own_endings, numbers.is_numbered
            )
        )
            when 'debtor' then movements.debtor_number
            when 'creditor' then movements.creditor_number
        end as counterparty_number
    from movements
    left join int_account_numbers as numbers on movements.account_key = numbers.account_key
    where movements.is_transfer and not movements.is_reversal

),

legs as (

    select
        sided.* exclude (counterparty_number),  -- noqa: RF02
        keyed_hash(sided.counterparty_number) as counterparty_key,
        owners.customer_id
    from sided
    inner join owners on sided.account_key = owners.account_key
    where
        sided.is_transfer_kind
        or sided.is_repayment
        or sided.is_paid_card
        or sided.counterparty_number is not null

),

transfers as (

    select distinct
        paid.movement_id as first_id,
        paid.account_key as first_key,
        paid.month as first_month,
        received.movement_id as second_id,
        received.account_key as second_key,
        received.month as second_month,
        case
            when paid.transaction_reference = received.transaction_reference then 'reference'
            when
                paid.counterparty_key = received.account_key
                or received.counterparty_key = paid.account_key
                then 'counterparty'
            else 'repayment'
        end as method,
        abs(received.booking_date - paid.booking_date) as lag_days
    from legs as paid
    inner join legs as received
        on
            paid.customer_id = received.customer_id
            and paid.account_key <> received.account_key
            and paid.currency = received.currency
            and paid.signed_amount = -received.signed_amount
            and abs(received.booking_date - paid.booking_date) <= 3
    where
        paid.signed_amount < 0
        and (
            paid.transaction_reference = received.transaction_reference
            or paid.counterparty_key = received.account_key
            or received.counterparty_key = paid.account_key
            or (paid.is_repayment and received.is_paid_card)
        )

),

reversals as (

    select
        reversing.movement_id as first_id,
        reversing.account_key as first_key,
        reversing.month as first_month,
        reversed.movement_id as second_id,
        reversed.account_key as second_key,
        reversed.month as second_month,
        case
            when reversing.transaction_reference = reversed.transaction_reference then 'reference'
            else 'merchant'
        end as method,
        reversing.booking_date - reversed.booking_date as lag_days
    from movements as reversing
    inner join movements as reversed
        on
            reversing.account_key = reversed.account_key
            and reversing.currency = reversed.currency
            and reversing.signed_amount = -reversed.signed_amount
            and reversing.placed_at >= reversed.placed_at
            and reversing.booking_date - reversed.booking_date <= 14
    where
        reversing.is_reversal
        and not reversed.is_reversal
        and (
            reversing.transaction_reference = reversed.transaction_reference
            or matchable(reversing.merchant_name) = matchable(reversed.merchant_name)
        )

),

candidates as (

    select
        'internal_transfer' as first_kind,
        'internal_transfer' as second_kind,
        *
    from transfers

    union all

    select
        'reversal' as first_kind,
        'reversed' as second_kind,
        *
    from reversals

),

ranked as (

    select
        *,
        case method when 'reference' then 1.0 when 'counterparty' then 0.95 else 0.8 end::decimal(
            3, 2
        ) as confidence,
        row_number() over (
            partition by first_kind, first_id
            order by method = 'reference' desc, lag_days asc, second_id asc
        ) as first_rank,
        row_number() over (
            partition by second_kind, second_id
            order by method = 'reference' desc, lag_days asc, first_id asc
        ) as second_rank
    from candidates

),

pairs as (

    select *
    from ranked
    where first_rank = 1 and second_rank = 1

)

select
    first_id as movement_id,
    first_key as account_key,
    first_kind as link_kind,
    second_id as linked_movement_id,
    least(first_id, second_id) as pair_id,
    method,
    confidence,
    lag_days,
    first_month as month
from pairs

union all

select
    second_id as movement_id,
    second_key as account_key,
    second_kind as link_kind,
    first_id as linked_movement_id,
    least(first_id, second_id) as pair_id,
    method,
    confidence,
    lag_days,
    second_month as month
from pairs
