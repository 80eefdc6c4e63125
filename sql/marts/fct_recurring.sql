-- Payments that come again and again, in and out: since when, how much, when the next payment is
-- due, whether a payment was missed, and which order or mandate is behind it.
--
-- subject: income and obligations
-- grain:  one row per recurring stream of payments
-- key:    recurrence_id
-- stored: table
-- apart:  account by account_key
-- counts: streams with a cadence; see int_payment_streams
-- zone:   days are Riyadh days
-- columns:
--   recurrence_id      The stream of payments.
--   typical_amount     The median payment, in units of currency.
--   smallest_amount    The smallest payment.
--   largest_amount     The largest payment.
--   amount_spread      largest_amount less smallest_amount.
--   missed_count       Payments that did not come: periods skipped between the first and the last
--                      payment, and, unless the stream has stopped, payments overdue since. Null
--                      where days of the account are not covered, because then nobody knows.
--   status             active; late with one overdue payment; stopped with two or more.
--   standing_order_id  Standing order of the account to the same other side; the smallest id of
--                      several. Null without a standing order.
--   direct_debit_id    Mandate of the account whose last collection is one of the payments, by day
--                      and amount; the smallest id of several. Null without such a mandate.
-- sample: select kind, cadence, status, count(*) as recurrences from fct_recurring group by all
with orders as (

    select
        accounts.account_key,
        keyed_hash(account_number(orders.creditor_account_identification)) as counterparty_key,
        min(orders.standing_order_id) as standing_order_id
    from stg_standing_orders as orders
    inner join bridge_accounts as accounts on orders.account_id = accounts.account_id
    where orders.creditor_account_identification is not null
    group by all

),

debits as (

    select
        accounts.account_key,
        debits.previous_payment_date as booking_date,
        debits.previous_payment_amount as payment,
        debits.previous_payment_currency as currency,
        min(debits.direct_debit_id) as direct_debit_id
    from stg_direct_debits as debits
    inner join bridge_accounts as accounts on debits.account_id = accounts.account_id
    where debits.previous_payment_date is not null
    group by all

),

collected as (

    select
        movements.stream_id,
        min(debits.direct_debit_id) as direct_debit_id
    from debits
    inner join int_counterparty_movements as movements
        on
            debits.account_key = movements.account_key
            and debits.booking_date = movements.booking_date
            and debits.payment = movements.payment
            and debits.currency = movements.currency
    where movements.direction = 'out'
    group by movements.stream_id

)

select
    -- ids
    streams.stream_id as recurrence_id,
    streams.account_key,
    streams.counterparty_key,
    streams.merchant_match,
    streams.biller_id,
    orders.standing_order_id,
    collected.direct_debit_id,

    -- money
    streams.currency,
    streams.typical_payment as typical_amount,
    streams.smallest_payment as smallest_amount,
    streams.largest_payment as largest_amount,
    streams.largest_payment - streams.smallest_payment as amount_spread,

    -- attributes
    streams.direction,
    streams.kind,
    streams.kind_source,
    streams.cadence,
    streams.typical_day,
    streams.moves_before_weekend,
    case
        when streams.overdue_count = 0 then 'active'
        when streams.overdue_count = 1 then 'late'
        else 'stopped'
    end as status,

    -- counts
    streams.occurrence_count,
    streams.months_seen,
    streams.skipped_count
    + case when streams.overdue_count > 1 then 0 else streams.overdue_count end as missed_count,

    -- flags
    streams.is_direct_debit,
    streams.is_standing_order,

    -- times
    streams.first_date,
    streams.last_date,
    streams.next_expected_date,

    -- coverage
    streams.data_through_date,
    streams.uncovered_days,
    streams.opaque_share,

    -- trace
    streams.movement_ids
from int_payment_streams as streams
left join orders
    on
        streams.account_key = orders.account_key
        and streams.counterparty_key = orders.counterparty_key
        and streams.direction = 'out'
left join collected on streams.stream_id = collected.stream_id
where streams.cadence <> 'irregular'
