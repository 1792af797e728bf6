// The best of a workgroup's candidates, the first of equals, for its first invocation.
struct Candidate { value: f32, token: u32 }

var<workgroup> best_value: array<f32, THREADS>;
var<workgroup> best_token: array<u32, THREADS>;

fn better(a: Candidate, b: Candidate) -> Candidate {
  if (b.value > a.value || (b.value == a.value && b.token < a.token)) {
    return b;
  }
  return a;
}

fn best_of(value: f32, token: u32, t: u32) -> Candidate {
  best_value[t] = value;
  best_token[t] = token;
  var own = Candidate(value, token);
  workgroupBarrier();
  if (t < 16u) {
    for (var i = t + 16u; i < THREADS; i += 16u) {
      own = better(own, Candidate(best_value[i], best_token[i]));
    }
    best_value[t] = own.value;
    best_token[t] = own.token;
  }
  workgroupBarrier();
  if (t == 0u) {
    for (var i = 1u; i < 16u; i++) {
      own = better(own, Candidate(best_value[i], best_token[i]));
    }
  }
  return own;
}
