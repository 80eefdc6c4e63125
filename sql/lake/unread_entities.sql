-- Entities that may be read and of which nothing has been read yet.
--
-- parameters: at_instant
-- grain: one row per entity
with known as (

    select entity_id
    from pulls
    where outcome in ('COMMITTED', 'UNCHANGED') and refreshed_at is not null

)

select
    readable.entity_id,
    readable.bank_identifier
from readable_entities('accounts', at_instant) as readable  -- noqa: RF02
anti join known on readable.entity_id = known.entity_id
where readable.skip_code is null
order by readable.entity_id
