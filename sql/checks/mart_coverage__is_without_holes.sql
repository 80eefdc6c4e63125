-- The stretches of an account follow each other day by day, so that no day is told twice or not.
select
    account_key,
    utc_from
from mart_coverage
qualify lag(utc_to) over (partition by account_key order by utc_from) + 1 <> utc_from
