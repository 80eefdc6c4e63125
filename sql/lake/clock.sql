-- The instant that the lake speaks of: what any bank said last, or Lean at the newest listing.
--
-- Models measure ages and ends against it rather than against the time of their building, so the
-- same lake gives the same tables whenever they are built. A listing counts because a feed that has
-- died is then as old as it is, and a consent that has ended has ended.
--
-- grain: one row
-- zone:  as_of is UTC, as_of_date the day in Riyadh
-- columns:
--   as_of       The instant, UTC; null before the first pull.
--   as_of_date  Its day in Riyadh.
with newest as (

    select
        greatest(
            max(refreshed_at),
            max(known_at) filter (where stream = 'entities' and outcome = 'COMMITTED')
        ) as as_of
    from pulls
    where outcome in ('COMMITTED', 'UNCHANGED')

)

select
    as_of,
    (as_of at time zone 'Asia/Riyadh')::date as as_of_date
from newest
