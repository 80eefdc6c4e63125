-- An entity has at most one active consent, as Lean promises.
-- severity: warning
select
    entity_id,
    count(*) as active_consents
from dim_consents
where is_current and state = 'active'
group by entity_id
having count(*) > 1
