-- No booked movement is linked to two pending movements.
select
    booked_movement_id,
    count(*) as pending_count
from fct_pending_lineage
where booked_movement_id is not null
group by booked_movement_id
having count(*) > 1
