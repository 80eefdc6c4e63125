-- Read targets with a present pull that was refused because too much did not fit.
--
-- grain: one row per read target
select distinct parent_id
from kept_pulls
where stream = $stream and code = 'RECORDS_UNFIT'
