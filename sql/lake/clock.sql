-- The lake's clock: when a bank was asked last, or when Lean listed entities last, whichever is
-- later.
--
-- Models measure ages and ends against it and not against the time of the build, so the same lake
-- gives the same tables whenever they are built. Listings count too: without them, data of a dead
-- feed would not age, and an expired consent would stay active.
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
