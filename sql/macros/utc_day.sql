-- The UTC day of an instant. A cast would ask the session's zone, which costs ten times as much.
create or replace macro utc_day(instant) as
make_timestamp(epoch_us(instant::timestamptz))::date;
