-- Money divided into equal parts, rounded half up (away from zero) to three decimal places, the
-- most that currencies of the region have. Division of DECIMALs would pass through DOUBLE; whole
-- thousandths do not. Null for zero parts.
create or replace macro mean_amount(total, parts) as
case
    when parts > 0
        then ((
            sign(total)::integer
            * ((abs(total) * 1000)::hugeint * 2 + parts::hugeint)
            // (2 * parts::hugeint)
        )::decimal(35, 0) * 0.001::decimal(4, 3))::decimal(38, 9)
end;
