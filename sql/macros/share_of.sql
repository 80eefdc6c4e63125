-- Size of a part of a whole, from 0 to 1, rounded half up to four places; null where the whole is
-- zero.
create or replace macro share_of(part, whole) as
case when whole > 0 then round((part / whole)::decimal(18, 9), 4)::decimal(5, 4) end;
