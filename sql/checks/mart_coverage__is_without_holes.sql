-- Coverage intervals of an account are contiguous: no gaps, no overlaps.
select
    account_key,
    utc_from
from mart_coverage
qualify lag(utc_to) over (partition by account_key order by utc_from) + 1 <> utc_from
