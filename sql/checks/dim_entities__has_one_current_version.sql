-- Each entity has exactly one current version, and its versions follow each other without a gap.
select
    entity_id,
    count(*) filter (where is_current) as current_versions
from dim_entities
group by entity_id
having count(*) filter (where is_current) <> 1 or max(version) <> count(*)
