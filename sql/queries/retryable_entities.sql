-- Entities that a run could not read completely and that another run may read: Lean or the bank did
-- not answer, or an answer was incomplete.
--
-- grain: one row per entity
select distinct entity_id
from pulls
where
    run_id = $run_id
    and outcome = 'FAILED'
    and list_contains($remedies, remedy)
    and entity_id is not null
