-- Records in quarantine, for leanhouse status; their days are not known.
--
-- grain: one row per stream, bank, column and reason
select
    stream,
    bank_identifier as bank,
    column_name,
    reason,
    sum(record_count) as records,
    count(distinct parent_id) as targets,
    min(first_seen_at) as first_seen
from quarantine
where is_record_lost
group by all
order by all
