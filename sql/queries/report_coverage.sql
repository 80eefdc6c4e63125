-- How many days of accounts are known and why the others are not, for the daily report. Days that
-- the bank does not offer or the consent does not permit are left out.
--
-- grain: one row per bank and status of mart_coverage, known days first
with days as (

    select
        dim_accounts.bank_identifier as label,
        mart_coverage.status as series,
        sum(mart_coverage.day_count)::bigint as value
    from mart_coverage
    inner join dim_accounts on mart_coverage.account_key = dim_accounts.account_key
    where mart_coverage.status not in ('not_offered', 'not_permitted')
    group by all

)

select
    *,
    list_position(
        ['covered', 'not_yet_pulled', 'record_unfit', 'bank_refused'], series
    ) as place
from days
order by label, place
