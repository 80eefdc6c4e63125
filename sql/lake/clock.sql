-- The instant that the lake speaks of: the newest state of any bank's data that it has read.
--
-- Models measure ages and ends against it rather than against the time of their building, so the
-- same lake gives the same tables whenever they are built.
--
-- grain: one row
-- zone:  as_of is UTC, as_of_date the day in Riyadh
select
    coalesce(max(refreshed_at), max(finished_at)) as as_of,
    (coalesce(max(refreshed_at), max(finished_at)) at time zone 'Asia/Riyadh')::date as as_of_date
from pulls
where outcome in ('COMMITTED', 'UNCHANGED')
