-- Each consent has exactly one current version, and its versions follow each other without a gap.
select
    consent_id,
    count(*) filter (where is_current) as current_versions
from dim_consents
group by consent_id
having count(*) filter (where is_current) <> 1 or max(version) <> count(*)
