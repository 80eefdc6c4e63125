-- Refreshes that were spent within the last 24 hours, and when another one may be.
--
-- This is the body of a table macro; per_day and at_instant are its parameters.
--
-- grain: one row per entity that was spent a refresh within 24 hours
-- zone:  instants are UTC, by Lean's clock
select
    entity_id,
    count(*) as spent,
    greatest(0, per_day - count(*)) as remaining,  -- noqa: RF02
    max(spent_at) as last_spent_at,
    case
        when count(*) >= per_day  -- noqa: RF02
            then list(spent_at order by spent_at desc)[per_day] + interval 24 hour  -- noqa: RF02
    end as next_allowed_at
from refresh_spends
where spent_at > at_instant - interval 24 hour  -- noqa: RF02
group by entity_id
