// log Σ exp over a row of `logits`, in one pass: each lane keeps the largest value so far, and the sum of exponentials relative
// to it. Loads go out several at a time.
fn log_sum(base: u32, groups: u32, t: vec2<u32>) -> f32 {
  var top = V(-3.4e38);
  var mass = V(0.0);
  var k = t.x;
  for (; k + (UNROLL - 1u) * LANES < groups; k += UNROLL * LANES) {
    #{let v# = logits[base + k + #u * LANES];}#
    var next = top;
    #{next = max(next, v#);}#
    mass *= exp(top - next);
    #{mass += exp(v# - next);}#
    top = next;
  }
  for (; k < groups; k += LANES) {
    let v = logits[base + k];
    let next = max(top, v);
    mass = mass * exp(top - next) + exp(v - next);
    top = next;
  }
  let own = largest(top);
  let all = row_max(own, t.x, t.y);
  return all + log(row_sum(total(mass * exp(top - own)) * exp(own - all), t.x, t.y));
}
