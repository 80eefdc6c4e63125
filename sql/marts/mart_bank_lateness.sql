-- How late each bank shows movements, by our own reads: for each number of days after a movement's
-- own day, how many were first seen then. Set nightly_days of policy.toml by it.
--
-- subject: trust
-- grain:  one row per bank, UTC month and number of days
-- key:    bank_identifier, month, days_late
-- stored: by month
-- apart:  whole
-- counts: movements in any state, dated on or after the day of the first read of their account's
--         month: of earlier ones nobody can say when the bank began to show them. A movement that
--         came later than nightly_days is first seen when its month is read whole, up to
--         whole_months_every_days later than the bank showed it
-- zone:   days and months are UTC, as in Lean's requests
-- columns:
--   bank_identifier  The bank.
--   month            UTC month of the movements, YYYY-MM.
--   days_late        UTC days from the movement's day to the first read that showed it; 0 where the
--                    first read that covered its day showed it.
--   movement_count   Movements that were first seen so late.
-- sample: select bank_identifier, days_late, sum(movement_count) as movements
--         from mart_bank_lateness group by all order by all
with reads as (

    select
        parent_id as account_id,
        month,
        any_value(bank_identifier) as bank_identifier,
        min(coalesce(refreshed_at, known_at, asked_at)) as first_told_at
    from pulls
    where stream = 'transactions' and outcome = 'COMMITTED' and bank_identifier is not null
    group by all

)

select
    reads.bank_identifier,
    history.month,
    case
        when history.is_late then utc_day(history.told_at) - utc_day(history.placed_at) else 0
    end as days_late,
    count(*) as movement_count
from fct_transaction_history as history
inner join reads on history.account_id = reads.account_id and history.month = reads.month
where history.version = 1 and utc_day(history.placed_at) >= utc_day(reads.first_told_at)
group by all
