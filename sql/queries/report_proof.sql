-- How many days of accounts, and movements on them, balances prove, for the daily report. Days are
-- those of mart_balance_reconciliation, taken from the intervals behind it.
--
-- grain: one row per bank and verdict, proved days first
with days as (

    select
        dim_accounts.bank_identifier as label,
        intervals.verdict as series,
        sum(intervals.to_date - intervals.from_date + 1)::bigint as value,
        sum(intervals.booked_count)::bigint as movements
    from intermediate.int_balance_intervals as intervals
    inner join dim_accounts on intervals.account_key = dim_accounts.account_key
    group by all

)

select
    *,
    list_position(['proved', 'unprovable', 'gap'], series) as place
from days
order by label, place
