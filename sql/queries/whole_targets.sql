-- Accounts that one pull alone speaks for in a month; those are merged.
--
-- grain: one row per account
select
    parent_id,
    min(pull_id) as newest_id
from claims
where stream = $stream and month = $month
group by parent_id
having count(*) = 1
