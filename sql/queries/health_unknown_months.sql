-- Months of accounts that should be known and are not, for the state of health. Reads the views
-- coverage_intervals and known_accounts, which show mart_coverage and dim_accounts.
--
-- grain: one row per bank
select
    known_accounts.bank_identifier,
    sum(
        date_diff('month', coverage_intervals.utc_from, coverage_intervals.utc_to) + 1
    )::bigint as months
from coverage_intervals
inner join known_accounts on coverage_intervals.account_key = known_accounts.account_key
where coverage_intervals.status in ('not_yet_pulled', 'bank_refused', 'record_unfit')
group by known_accounts.bank_identifier
