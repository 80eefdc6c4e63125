-- Records in quarantine, for the state of health; their days are not known.
--
-- grain: one row per stream, bank, column and reason
select
    bank_identifier,
    stream,
    column_name,
    reason,
    sum(record_count)::bigint as count,
    min(first_seen_at) as since
from quarantine
where is_record_lost
group by all
order by all
