-- Whether the movements of each day explain its balances: the opening balance plus all that was
-- booked must be the closing balance, and that must be the next opening balance.
--
-- subject: balances
-- grain:  one row per account, currency and Riyadh day from the first to the last that is known
-- key:    account_key, currency, balance_date
-- stored: view
-- counts: booked movements and booked balances
-- zone:   days are Riyadh's
-- columns:
--   balance_date           The day.
--   suspected_cause        Likely cause of a gap; see int_balance_gaps.
--   evidence_movement_ids  Movements that explain a gap, or else all movements of its day; null
--                          where there is no gap. Movements of other days are in fct_transactions,
--                          by account_key, currency and booking_date.
-- sample: select balance_date, verdict, gap_amount, gap_from_date, suspected_cause
--         from mart_balance_reconciliation where account_key = '…' order by balance_date
with days as (

    select
        *,
        unnest(generate_series(from_date, to_date, interval 1 day))::date as balance_date
    from int_balance_intervals

)

select
    -- ids
    days.account_key,

    -- money
    days.currency,
    days.opening_balance,
    days.booked_amount,
    days.expected_balance,
    days.observed_balance,
    days.gap_amount,

    -- attributes
    days.booked_count,
    days.verdict,
    days.proof,
    days.reason,
    gaps.suspected_cause,
    gaps.evidence_movement_ids,

    -- times
    days.balance_date,
    days.gap_from_date,
    days.last_observed_date,

    -- trace
    days.stated_pull_id
from days
left join int_balance_gaps as gaps
    on
        days.account_key = gaps.account_key
        and days.currency = gaps.currency
        and days.from_date = gaps.gap_date
