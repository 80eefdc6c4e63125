-- Whether new pulls may change rows of everybody: another list of banks, or a bank that is off; and
-- how many accounts and entities they are of.
--
-- grain: one row
select
    coalesce(bool_or(
        (stream = 'banks' and outcome = 'COMMITTED')
        or code in ('DISABLED_BY_LEAN', 'DISABLED_BY_CLIENT')
    ), false) as is_general,
    count(distinct parent_id) filter (where stream not in ($shared)) as parents
from pulls
