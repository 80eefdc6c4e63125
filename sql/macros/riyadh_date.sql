-- The day in Riyadh of an instant. Saudi Arabia keeps UTC+3 all year, so the session's zone is not
-- asked and does not matter. Whole days are added and taken away again, because integer division
-- cuts towards zero.
create or replace macro riyadh_date(instant) as
date '1970-01-01' + (
    (epoch_us(instant::timestamptz) + 10800000000 + 86400000000000000) // 86400000000 - 1000000
)::integer;
