// log Σ exp over a row of `logits`, in one pass: each lane keeps the largest value so far, and the sum of exponentials relative
// to it. Loads go out several at a time.
fn log_sum(base: u32, groups: u32, t: vec2<u32>) -> f32 {
  var top = V(-3.4e38);
  var mass = V(0.0);
  var k = t.x;
  for (; k + (COUNT - 1u) * LANES < groups; k += COUNT * LANES) {
    #{let v# = logits[base + k + #u * LANES];}#
    var next = top;
    #{next = max(next, v#);}#
    mass *= exp(top - next);
    #{mass += exp(v# - next);}#
    top = next;
  }
  // The rest in one go too, where groups beyond the row count for nothing.
  if (k < groups) {
    #{let v# = select(V(-3.4e38), logits[base + min(k + #u * LANES, groups - 1u)], k + #u * LANES < groups);}#
    var next = top;
    #{next = max(next, v#);}#
    mass *= exp(top - next);
    #{mass += exp(v# - next);}#
    top = next;
  }
  let own = largest(top);
  let all = row_max(own, t.x, t.y);
  return all + log(row_sum(total(mass * exp(top - own)) * exp(own - all), t.x, t.y));
}
